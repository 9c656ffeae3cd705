// Sixteen floats in an AVX-512 register.
#pragma once

struct Vec {
  static constexpr int width = 16;
  __m512 v;

  static Vec all(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
  static Vec load(const Bfloat16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static Vec load(const Bfloat16* p, int n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(float* p, int n) const { _mm512_mask_storeu_ps(p, first(n), v); }
  void store(Bfloat16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow()); }
  void store(Bfloat16* p, int n) const { _mm256_mask_storeu_epi16(p, first(n), narrow()); }

  // Stores the lanes that are not equal to what stands there; whether there is any. What is not a number never is equal.
  bool renew(float* p, int n = width) const {
    const __mmask16 found = _mm512_mask_cmp_ps_mask(first(n), v, load(p, n).v, _CMP_NEQ_UQ);
    _mm512_mask_storeu_ps(p, found, v);
    return found != 0;
  }
  bool renew(Bfloat16* p, int n = width) const {
    const __mmask16 found = _mm512_mask_cmp_ps_mask(first(n), v, load(p, n).v, _CMP_NEQ_UQ);
    _mm256_mask_storeu_epi16(p, found, narrow());
    return found != 0;
  }

  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static Vec widen(__m256i half) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
  // Rounds to the nearest, ties to even; what is not a number stays so.
  __m256i narrow() const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(
        _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000)), 16));
  }
  Vec rounded() const { return widen(narrow()); }  // to bfloat16
};

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// Both give b where either is not a number.
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec abs(Vec a) { return {_mm512_abs_ps(a.v)}; }
inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// x * 2^n, for integral n in -126..127.
inline Vec scale2(Vec x, Vec n) { return {_mm512_scalef_ps(x.v, n.v)}; }
// yes where a > b, else no (also where either is not a number).
inline Vec where_greater(Vec a, Vec b, Vec yes, Vec no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), no.v, yes.v)};
}
// yes where a is not a number, else no.
inline Vec where_nan(Vec a, Vec yes, Vec no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), no.v, yes.v)};
}
// Which lanes are not equal, as bits; what is not a number never is.
inline uint32_t differing(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ); }
// p[K], p[K + 3], ...: one of three interleaved channels. Their places differ in the remainder by the width.
template <int K>
Vec every_third(const float* p) {
  __mmask16 second = 0, third = 0;
  alignas(64) int32_t lanes[16];
  for (int i = 0; i < 16; ++i) {
    const int at = 3 * i + K;
    lanes[i] = at % 16;
    if (at / 16 == 1) second = static_cast<__mmask16>(second | 1 << at % 16);
    if (at / 16 == 2) third = static_cast<__mmask16>(third | 1 << at % 16);
  }
  const __m512 mixed = _mm512_mask_loadu_ps(_mm512_mask_loadu_ps(_mm512_loadu_ps(p), second, p + 16), third, p + 32);
  return {_mm512_permutexvar_ps(_mm512_load_si512(lanes), mixed)};
}

// Products of bfloat16, two at a time. What calls it asks first whether the processor has the instruction.
struct Pairs {
  using Term = Bfloat16;
  using Weights = __m512bh;
  static constexpr bool kThere = true;
  static constexpr int64_t kTogether = 2;

  static __m512bh all(const Bfloat16* x, int64_t k) {
    int32_t pair;
    std::memcpy(&pair, x + 2 * k, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
  }
  static __m512bh load(const Bfloat16* weights) { return (__m512bh)_mm512_loadu_si512(weights); }
  static Vec add(Vec sum, __m512bh x, __m512bh weights) { return {_mm512_dpbf16_ps(sum.v, x, weights)}; }
};
