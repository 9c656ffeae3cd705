// Eight floats in an AVX register, with AVX2 and FMA.
#pragma once

struct Vec {
  static constexpr int width = 8;
  __m256 v;

  static Vec all(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load(const float* p, int n) { return {_mm256_maskload_ps(p, first(n))}; }
  static Vec load(const Bfloat16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Vec load(const Bfloat16* p, int n) {
    __m128i part = _mm_setzero_si128();
    std::memcpy(&part, p, sizeof(Bfloat16) * n);
    return widen(part);
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(float* p, int n) const { _mm256_maskstore_ps(p, first(n), v); }
  void store(Bfloat16* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow()); }
  void store(Bfloat16* p, int n) const {
    const __m128i part = narrow();
    std::memcpy(p, &part, sizeof(Bfloat16) * n);
  }

  // Stores the lanes that are not equal to what stands there; whether there is any. What is not a number never is equal.
  template <class T>
  bool renew(T* p, int n = width) const {
    const Vec old = n == width ? load(p) : load(p, n);
    const __m256 found = _mm256_and_ps(_mm256_cmp_ps(v, old.v, _CMP_NEQ_UQ), _mm256_castsi256_ps(first(n)));
    if (_mm256_movemask_ps(found) == 0) return false;
    const Vec mixed = {_mm256_blendv_ps(old.v, v, found)};
    n == width ? mixed.store(p) : mixed.store(p, n);
    return true;
  }

  static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Vec widen(__m128i half) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
  }
  // Rounds to the nearest, ties to even; what is not a number stays so.
  __m128i narrow() const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i wide = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(wide, wide), 0b1000);
    return _mm256_castsi256_si128(packed);
  }
  Vec rounded() const { return widen(narrow()); }  // to bfloat16
};

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
// Both give b where either is not a number.
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
inline Vec round(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// x * 2^n, for integral n in -126..127.
inline Vec scale2(Vec x, Vec n) {
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23);
  return {_mm256_mul_ps(x.v, _mm256_castsi256_ps(power))};
}
// yes where a > b, else no (also where either is not a number).
inline Vec where_greater(Vec a, Vec b, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ))};
}
// yes where a is not a number, else no.
inline Vec where_nan(Vec a, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q))};
}
// Which lanes are not equal, as bits; what is not a number never is.
inline uint32_t differing(Vec a, Vec b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)));
}
// p[K], p[K + 3], ...: one of three interleaved channels. Their places differ in the remainder by the width.
template <int K>
Vec every_third(const float* p) {
  constexpr auto from = [](int part) {
    int mask = 0;
    for (int i = 0; i < 8; ++i)
      if ((3 * i + K) / 8 == part) mask |= 1 << (3 * i + K) % 8;
    return mask;
  };
  constexpr int second = from(1), third = from(2);
  const __m256 two = _mm256_blend_ps(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8), second);
  const __m256 mixed = _mm256_blend_ps(two, _mm256_loadu_ps(p + 16), third);
  const __m256i lanes = _mm256_setr_epi32(K % 8, (K + 3) % 8, (K + 6) % 8, (K + 9) % 8, (K + 12) % 8, (K + 15) % 8,
                                          (K + 18) % 8, (K + 21) % 8);
  return {_mm256_permutevar8x32_ps(mixed, lanes)};
}

// There is no instruction for products in pairs.
struct Pairs {
  static constexpr bool kThere = false;
};
