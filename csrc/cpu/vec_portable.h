// Eight floats that the compiler may keep in whatever registers the processor has.
#pragma once

struct Vec {
  static constexpr int width = 8;
  float v[8];

  template <class F>
  static Vec each(F f) {
    Vec r;
    for (int i = 0; i < width; ++i) r.v[i] = f(i);
    return r;
  }
  static Vec all(float x) {
    return each([&](int) { return x; });
  }
  static Vec load(const float* p) {
    return each([&](int i) { return p[i]; });
  }
  static Vec load(const float* p, int n) {
    return each([&](int i) { return i < n ? p[i] : 0.0f; });
  }
  static Vec load(const Bfloat16* p) {
    return each([&](int i) { return widen(p[i]); });
  }
  static Vec load(const Bfloat16* p, int n) {
    return each([&](int i) { return i < n ? widen(p[i]) : 0.0f; });
  }
  void store(float* p) const { store(p, width); }
  void store(float* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }
  void store(Bfloat16* p) const { store(p, width); }
  void store(Bfloat16* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = narrow(v[i]);
  }
  // Stores the lanes that are not equal to what stands there; whether there is any. What is not a number never is equal.
  template <class T>
  bool renew(T* p, int n = width) const {
    const Vec old = load(p, n);
    bool any = false;
    for (int i = 0; i < n; ++i) {
      if (v[i] == old.v[i]) continue;
      any = true;
      set(p[i], v[i]);
    }
    return any;
  }

  static void set(float& to, float x) { to = x; }
  static void set(Bfloat16& to, float x) { to = narrow(x); }
  static float widen(Bfloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
  }
  // Rounds to the nearest, ties to even; what is not a number stays so.
  static Bfloat16 narrow(float x) {
    if (x != x) return {0x7fc0};
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
  }
  Vec rounded() const {  // to bfloat16
    return each([&](int i) { return widen(narrow(v[i])); });
  }
};

inline Vec operator+(Vec a, Vec b) {
  return Vec::each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec operator-(Vec a, Vec b) {
  return Vec::each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec operator*(Vec a, Vec b) {
  return Vec::each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec operator/(Vec a, Vec b) {
  return Vec::each([&](int i) { return a.v[i] / b.v[i]; });
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return Vec::each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
// Both give b where either is not a number.
inline Vec max(Vec a, Vec b) {
  return Vec::each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec min(Vec a, Vec b) {
  return Vec::each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec abs(Vec a) {
  return Vec::each([&](int i) { return std::fabs(a.v[i]); });
}
inline Vec sqrt(Vec a) {
  return Vec::each([&](int i) { return std::sqrt(a.v[i]); });
}
inline Vec round(Vec a) {
  return Vec::each([&](int i) { return std::nearbyint(a.v[i]); });
}
// x * 2^n, for integral n in -126..127.
inline Vec scale2(Vec x, Vec n) {
  return Vec::each([&](int i) { return std::ldexp(x.v[i], static_cast<int>(n.v[i])); });
}
// yes where a > b, else no (also where either is not a number).
inline Vec where_greater(Vec a, Vec b, Vec yes, Vec no) {
  return Vec::each([&](int i) { return a.v[i] > b.v[i] ? yes.v[i] : no.v[i]; });
}
// yes where a is not a number, else no.
inline Vec where_nan(Vec a, Vec yes, Vec no) {
  return Vec::each([&](int i) { return a.v[i] != a.v[i] ? yes.v[i] : no.v[i]; });
}
// Which lanes are not equal, as bits; what is not a number never is.
inline uint32_t differing(Vec a, Vec b) {
  uint32_t bits = 0;
  for (int i = 0; i < Vec::width; ++i) bits |= static_cast<uint32_t>(!(a.v[i] == b.v[i])) << i;
  return bits;
}
// p[K], p[K + 3], ...: one of three interleaved channels.
template <int K>
Vec every_third(const float* p) {
  return Vec::each([&](int i) { return p[3 * i + K]; });
}

// There is no instruction for products in pairs.
struct Pairs {
  static constexpr bool kThere = false;
};
