// What each instruction does, for the lanes of a mask. Registers hold bits; results are extended with zeros to 64.
#include <bit>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <unordered_map>

#include "machine.h"

namespace emulator {
namespace {

using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;

template <class T> T get(u64 bits) {
  if constexpr (std::is_same_v<T, float>) return std::bit_cast<float>((u32)bits);
  else if constexpr (std::is_same_v<T, double>) return std::bit_cast<double>(bits);
  else return (T)bits;
}
template <class T> u64 put(T value) {
  if constexpr (std::is_same_v<T, float>) return std::bit_cast<u32>(value);
  else if constexpr (std::is_same_v<T, double>) return std::bit_cast<u64>(value);
  else return (u64)(std::make_unsigned_t<T>)value;
}

template <class F> void lanes(u32 mask, const F& f) {
  for (; mask; mask &= mask - 1) f(__builtin_ctz(mask));
}

// to = f(from...), each source of type T.
template <class R, class T, auto F> void one(Warp& w, const Instruction& i, u32 mask) {
  auto& to = w.registers[i.to[0]];
  const auto& a = w.registers[i.from[0]];
  lanes(mask, [&](int l) { to[l] = put<R>(F(get<T>(a[l]))); });
}
template <class R, class T, class S, auto F> void two(Warp& w, const Instruction& i, u32 mask) {
  auto& to = w.registers[i.to[0]];
  const auto &a = w.registers[i.from[0]], &b = w.registers[i.from[1]];
  lanes(mask, [&](int l) { to[l] = put<R>(F(get<T>(a[l]), get<S>(b[l]))); });
}
template <class R, class T, class S, auto F> void three(Warp& w, const Instruction& i, u32 mask) {
  auto& to = w.registers[i.to[0]];
  const auto &a = w.registers[i.from[0]], &b = w.registers[i.from[1]], &c = w.registers[i.from[2]];
  lanes(mask, [&](int l) { to[l] = put<R>(F(get<T>(a[l]), get<T>(b[l]), get<S>(c[l]))); });
}
template <class T, auto F> constexpr Handler binary = two<T, T, T, F>;
template <class T, auto F> constexpr Handler fused = three<T, T, T, F>;

// setp.cmp[.and|.or].type p, a, b[, c]
enum class Join { NONE, AND, OR };
template <class T, auto F, Join J> void compare(Warp& w, const Instruction& i, u32 mask) {
  auto& to = w.registers[i.to[0]];
  const auto &a = w.registers[i.from[0]], &b = w.registers[i.from[1]];
  lanes(mask, [&](int l) {
    bool holds = F(get<T>(a[l]), get<T>(b[l]));
    if constexpr (J == Join::AND) holds = holds && w.registers[i.from[2]][l];
    if constexpr (J == Join::OR) holds = holds || w.registers[i.from[2]][l];
    to[l] = holds;
  });
}

void move(Warp& w, const Instruction& i, u32 mask) {
  auto& to = w.registers[i.to[0]];
  const auto& a = w.registers[i.from[0]];
  lanes(mask, [&](int l) { to[l] = a[l]; });
}
void select(Warp& w, const Instruction& i, u32 mask) {
  auto& to = w.registers[i.to[0]];
  const auto &a = w.registers[i.from[0]], &b = w.registers[i.from[1]], &p = w.registers[i.from[2]];
  lanes(mask, [&](int l) { to[l] = p[l] ? a[l] : b[l]; });
}
u64 low(u64 bits, int bytes) { return bytes == 8 ? bits : bits & ((1ull << 8 * bytes) - 1); }
void pack(Warp& w, const Instruction& i, u32 mask) {
  lanes(mask, [&](int l) {
    u64 bits = 0;
    for (int k = 0; k < i.count; ++k) bits |= low(w.registers[i.from[k]][l], i.bytes) << 8 * i.bytes * k;
    w.registers[i.to[0]][l] = bits;
  });
}
void unpack(Warp& w, const Instruction& i, u32 mask) {
  lanes(mask, [&](int l) {
    const u64 bits = w.registers[i.from[0]][l];
    for (int k = 0; k < i.count; ++k) w.registers[i.to[k]][l] = low(bits >> 8 * i.bytes * k, i.bytes);
  });
}

template <class Extended> void load(Warp& w, const Instruction& i, u32 mask) {
  const auto& base = w.registers[i.from[0]];
  const u32 bytes = (u32)i.bytes * i.count;
  lanes(mask, [&](int l) {
    const u64 address = base[l] + (u64)i.offset;
    const uint8_t* from = i.space == Space::PARAM ? w.launch->params + address : w.launch->reach(w, l, i.space, address, bytes, Access::READ);
    for (int k = 0; k < i.count; ++k) {
      u64 bits = 0;
      std::memcpy(&bits, from + k * i.bytes, i.bytes);
      if constexpr (!std::is_void_v<Extended>) bits = (u64)(s64)(Extended)bits;
      w.registers[i.to[k]][l] = bits;
    }
  });
}
void store(Warp& w, const Instruction& i, u32 mask) {
  const auto& base = w.registers[i.from[0]];
  const u32 bytes = (u32)i.bytes * i.count;
  lanes(mask, [&](int l) {
    uint8_t* to = w.launch->reach(w, l, i.space, base[l] + (u64)i.offset, bytes, Access::WRITE);
    for (int k = 0; k < i.count; ++k) std::memcpy(to + k * i.bytes, &w.registers[i.from[1 + k]][l], i.bytes);
  });
}

// The bytes come when the thread waits for them: until then nobody may touch the place.
void copy_behind(Warp& w, const Instruction& i, u32 mask) {
  const auto &to = w.registers[i.from[0]], &from = w.registers[i.from[1]];
  lanes(mask, [&](int l) {
    const u32 place = (u32)to[l];
    const uint8_t* source = w.launch->reach(w, l, Space::GLOBAL, from[l], i.bytes, Access::READ);
    w.launch->reach(w, l, Space::SHARED, place, i.bytes, Access::WRITE);
    for (u32 k = 0; k < i.bytes; ++k) w.launch->shared_shadow[place + k].under_way = true;
    w.copies[l].push_back({place, source, i.bytes});
  });
}
void wait_for_copies(Warp& w, const Instruction&, u32 mask) {
  lanes(mask, [&](int l) {
    for (const Copy& copy : w.copies[l]) {
      for (u32 k = 0; k < copy.bytes; ++k) w.launch->shared_shadow[copy.to + k].under_way = false;
      std::memcpy(w.launch->reach(w, l, Space::SHARED, copy.to, copy.bytes, Access::WRITE), copy.from, copy.bytes);
    }
    w.copies[l].clear();
  });
}

// Lane after lane: the first source is the address, the second the operand. `red` has no result.
template <class T> void atomic_add(Warp& w, const Instruction& i, u32 mask) {
  const auto &base = w.registers[i.from[0]], &operand = w.registers[i.from[1]];
  lanes(mask, [&](int l) {
    uint8_t* at = w.launch->reach(w, l, i.space, base[l] + (u64)i.offset, sizeof(T), Access::ATOMIC);
    T before;
    std::memcpy(&before, at, sizeof(T));
    const T after = (T)(before + get<T>(operand[l]));
    std::memcpy(at, &after, sizeof(T));
    if (!i.to.empty()) w.registers[i.to[0]][l] = put<T>(before);
  });
}

// Warp-wide: a lane outside of the mask is not read.
template <auto Source> void shuffle(Warp& w, const Instruction& i, u32 mask) {
  const auto a = w.registers[i.from[0]];
  lanes(mask, [&](int l) {
    const u32 b = (u32)w.registers[i.from[1]][l], c = (u32)w.registers[i.from[2]][l];
    const u32 segment = c >> 8 & 31, clamp = c & 31, lane = (u32)l;
    const u32 highest = (lane & segment) | (clamp & ~segment), lowest = lane & segment;
    bool inside = false;
    u32 from = Source(lane, b, segment, lowest, highest, inside);
    if (!inside) from = lane;
    if (!(mask >> from & 1)) w.launch->fault(w, l, LAUNCH_FAILED, "a shuffle reads a lane that takes no part");
    w.registers[i.to[0]][l] = a[from];
    if (i.to.size() > 1) w.registers[i.to[1]][l] = inside;
  });
}
u32 butterfly(u32 lane, u32 b, u32, u32, u32 highest, bool& inside) { inside = (lane ^ b) <= highest; return lane ^ b; }
u32 down(u32 lane, u32 b, u32, u32, u32 highest, bool& inside) { inside = lane + b <= highest; return lane + b; }
u32 up(u32 lane, u32 b, u32, u32 lowest, u32, bool& inside) { inside = (s32)(lane - b) >= (s32)lowest; return lane - b; }
u32 index(u32, u32 b, u32 segment, u32 lowest, u32 highest, bool& inside) {
  const u32 from = lowest | (b & ~segment & 31);
  inside = from <= highest;
  return from;
}
u32 ballot_of(Warp& w, const Instruction& i, u32 mask) {
  u32 ballot = 0;
  lanes(mask, [&](int l) { ballot |= (u32)(w.registers[i.from[0]][l] != 0) << l; });
  return ballot;
}
void vote_ballot(Warp& w, const Instruction& i, u32 mask) {
  const u32 ballot = ballot_of(w, i, mask);
  lanes(mask, [&](int l) { w.registers[i.to[0]][l] = ballot; });
}
void vote_any(Warp& w, const Instruction& i, u32 mask) {
  const u32 ballot = ballot_of(w, i, mask);
  lanes(mask, [&](int l) { w.registers[i.to[0]][l] = ballot != 0; });
}
// Of these only __syncwarp() orders memory; a shuffle does not.
void sync_warp(Warp& w, const Instruction&, u32) { ++w.epoch; }

// --- arithmetic ---

float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
float fma_down(float a, float b, float c) {
  const int mode = std::fegetround();
  std::fesetround(FE_DOWNWARD);
  volatile float va = a, vb = b, vc = c;
  const volatile float result = std::fma((float)va, (float)vb, (float)vc);
  std::fesetround(mode);
  return result;
}
// The approximation gives the upper half of a double.
double reciprocal_high(double x) { return std::bit_cast<double>(std::bit_cast<u64>(1.0 / x) & 0xffffffff00000000ull); }
float saturated(float x) { return x > 0 ? std::min(x, 1.0f) : 0.0f; }  // a nan becomes 0
u16 to_half(float x) { return std::bit_cast<u16>((_Float16)x); }
// To nearest, ties to even; a nan is one nan, whatever its payload.
u16 to_bfloat16(float x) {
  const u32 bits = std::bit_cast<u32>(x);
  return x != x ? 0x7fff : (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float from_half(u16 x) { return (float)std::bit_cast<_Float16>(x); }
template <class T> T divide(T a, T b) { return b == 0 ? (T)-1 : (T)(a / b); }
template <class T> T remainder(T a, T b) { return b == 0 ? a : (T)(a % b); }
template <class T> T shift_left(T a, u32 n) { return n >= 8 * sizeof(T) ? 0 : (T)(a << n); }
template <class T> T shift_right(T a, u32 n) {
  if (n >= 8 * sizeof(T)) return a < 0 ? (T)-1 : (T)0;
  return (T)(a >> n);
}

using Table = std::unordered_map<std::string, Handler>;

template <class T> void integers(Table& t, const std::string& type) {
  using U = std::make_unsigned_t<T>;  // wraps round
  t["add." + type] = binary<U, [](U a, U b) { return (U)(a + b); }>;
  t["sub." + type] = binary<U, [](U a, U b) { return (U)(a - b); }>;
  t["mul.lo." + type] = binary<U, [](U a, U b) { return (U)(a * b); }>;
  t["mad.lo." + type] = fused<U, [](U a, U b, U c) { return (U)(a * b + c); }>;
  t["div." + type] = binary<T, divide<T>>;
  t["rem." + type] = binary<T, remainder<T>>;
  t["min." + type] = binary<T, [](T a, T b) { return a < b ? a : b; }>;
  t["max." + type] = binary<T, [](T a, T b) { return a < b ? b : a; }>;
  t["neg." + type] = one<U, U, [](U a) { return (U)(0 - a); }>;
  t["shr." + type] = two<T, T, u32, shift_right<T>>;
}
template <class T> void bits(Table& t, const std::string& type) {
  t["and." + type] = binary<T, [](T a, T b) { return (T)(a & b); }>;
  t["or." + type] = binary<T, [](T a, T b) { return (T)(a | b); }>;
  t["xor." + type] = binary<T, [](T a, T b) { return (T)(a ^ b); }>;
  t["not." + type] = one<T, T, [](T a) { return (T)~a; }>;
  t["shl." + type] = two<T, T, u32, shift_left<T>>;
  t["shr." + type] = two<T, T, u32, shift_right<T>>;
}
template <class T> void floats(Table& t, const std::string& type) {
  t["add." + type] = binary<T, [](T a, T b) { return a + b; }>;
  t["sub." + type] = binary<T, [](T a, T b) { return a - b; }>;
  t["mul." + type] = binary<T, [](T a, T b) { return a * b; }>;
  t["div." + type] = binary<T, [](T a, T b) { return a / b; }>;
  t["rcp." + type] = one<T, T, [](T a) { return 1 / a; }>;
  t["fma." + type] = fused<T, [](T a, T b, T c) { return std::fma(a, b, c); }>;
  t["neg." + type] = one<T, T, [](T a) { return -a; }>;
  t["abs." + type] = one<T, T, [](T a) { return std::fabs(a); }>;
  t["min." + type] = binary<T, [](T a, T b) { return std::fmin(a, b); }>;  // of a nan and a number, the number
  t["max." + type] = binary<T, [](T a, T b) { return std::fmax(a, b); }>;
  t["sqrt." + type] = one<T, T, [](T a) { return std::sqrt(a); }>;
  t["copysign." + type] = binary<T, [](T sign, T value) { return std::copysign(value, sign); }>;
}
template <class T, auto F> void comparison(Table& t, const std::string& name, const std::string& type) {
  t["setp." + name + "." + type] = compare<T, F, Join::NONE>;
  t["setp." + name + ".and." + type] = compare<T, F, Join::AND>;
  t["setp." + name + ".or." + type] = compare<T, F, Join::OR>;
}
template <class T> void comparisons(Table& t, const std::string& type) {
  comparison<T, [](T a, T b) { return a == b; }>(t, "eq", type);
  comparison<T, [](T a, T b) { return a < b; }>(t, "lt", type);
  comparison<T, [](T a, T b) { return a <= b; }>(t, "le", type);
  comparison<T, [](T a, T b) { return (a > b); }>(t, "gt", type);
  comparison<T, [](T a, T b) { return (a >= b); }>(t, "ge", type);
  if constexpr (std::is_floating_point_v<T>) {
    comparison<T, [](T a, T b) { return a < b || b < a; }>(t, "ne", type);  // false for a nan; the next ones are true
    comparison<T, [](T a, T b) { return !(a < b || b < a); }>(t, "equ", type);
    comparison<T, [](T a, T b) { return !(a == b); }>(t, "neu", type);
    comparison<T, [](T a, T b) { return !(a >= b); }>(t, "ltu", type);
    comparison<T, [](T a, T b) { return !(a > b); }>(t, "leu", type);
    comparison<T, [](T a, T b) { return !(a <= b); }>(t, "gtu", type);
    comparison<T, [](T a, T b) { return !(a < b); }>(t, "geu", type);
    comparison<T, [](T a, T b) { return a != a || b != b; }>(t, "nan", type);
    comparison<T, [](T a, T b) { return a == a && b == b; }>(t, "num", type);
  } else {
    comparison<T, [](T a, T b) { return a != b; }>(t, "ne", type);
  }
}
template <class R, class T> void conversion(Table& t, const std::string& name) {
  t["cvt." + name] = one<R, T, [](T a) { return (R)a; }>;
}

Table make_table() {
  Table t;
  integers<s16>(t, "s16"), integers<u16>(t, "u16"), integers<s32>(t, "s32"), integers<u32>(t, "u32"), integers<s64>(t, "s64"), integers<u64>(t, "u64");
  bits<u16>(t, "b16"), bits<u32>(t, "b32"), bits<u64>(t, "b64");
  floats<float>(t, "f32"), floats<double>(t, "f64");
  comparisons<s16>(t, "s16"), comparisons<u16>(t, "u16"), comparisons<s32>(t, "s32"), comparisons<u32>(t, "u32"), comparisons<s64>(t, "s64"), comparisons<u64>(t, "u64");
  comparisons<u16>(t, "b16"), comparisons<u32>(t, "b32"), comparisons<u64>(t, "b64");
  comparisons<float>(t, "f32"), comparisons<double>(t, "f64");

  t["mul.wide.s16"] = two<s32, s16, s16, [](s16 a, s16 b) { return (s32)a * b; }>;
  t["mul.wide.u16"] = two<u32, u16, u16, [](u16 a, u16 b) { return (u32)a * b; }>;
  t["mul.wide.s32"] = two<s64, s32, s32, [](s32 a, s32 b) { return (s64)a * b; }>;
  t["mul.wide.u32"] = two<u64, u32, u32, [](u32 a, u32 b) { return (u64)a * b; }>;
  t["mad.wide.s32"] = three<s64, s32, s64, [](s32 a, s32 b, s64 c) { return (s64)((u64)((s64)a * b) + (u64)c); }>;
  t["mad.wide.u32"] = three<u64, u32, u64, [](u32 a, u32 b, u64 c) { return (u64)a * b + c; }>;
  t["mul.hi.u32"] = binary<u32, [](u32 a, u32 b) { return (u32)((u64)a * b >> 32); }>;
  t["mul.hi.s32"] = binary<s32, [](s32 a, s32 b) { return (s32)((s64)a * b >> 32); }>;
  t["popc.b32"] = one<u32, u32, [](u32 a) { return (u32)std::popcount(a); }>;
  t["clz.b32"] = one<u32, u32, [](u32 a) { return (u32)std::countl_zero(a); }>;
  for (const char* type : {"b16", "b32", "b64", "u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64", "pred"}) {
    t[std::string("mov.") + type] = move;
    t[std::string("selp.") + type] = select;
  }
  t["and.pred"] = binary<u32, [](u32 a, u32 b) { return (u32)(a && b); }>;
  t["or.pred"] = binary<u32, [](u32 a, u32 b) { return (u32)(a || b); }>;
  t["xor.pred"] = binary<u32, [](u32 a, u32 b) { return (u32)(!a != !b); }>;
  t["not.pred"] = one<u32, u32, [](u32 a) { return (u32)!a; }>;
  t["cvta.to.global.u64"] = t["cvta.global.u64"] = move;
  t["pack"] = pack;
  t["unpack"] = unpack;
  t["ld"] = load<void>, t["ld.s8"] = load<int8_t>, t["ld.s16"] = load<s16>, t["ld.s32"] = load<s32>;
  t["st"] = store;
  t["cp.async"] = copy_behind;
  t["cp.async.wait_all"] = wait_for_copies;
  for (const char* base : {"atom", "red"}) {
    t[std::string(base) + ".add.u32"] = atomic_add<u32>, t[std::string(base) + ".add.u64"] = atomic_add<u64>;
  }

  conversion<u16, u32>(t, "u16.u32"), conversion<u16, u64>(t, "u16.u64"), conversion<u32, u16>(t, "u32.u16"), conversion<u32, u64>(t, "u32.u64");
  conversion<u64, u32>(t, "u64.u32"), conversion<u64, u16>(t, "u64.u16"), conversion<s64, s32>(t, "s64.s32"), conversion<s32, s16>(t, "s32.s16"), conversion<s64, s16>(t, "s64.s16");
  conversion<s32, int8_t>(t, "s32.s8"), conversion<s16, int8_t>(t, "s16.s8"), conversion<s64, int8_t>(t, "s64.s8"), conversion<u16, uint8_t>(t, "u16.u8"), conversion<u32, uint8_t>(t, "u32.u8");
  conversion<float, s32>(t, "rn.f32.s32"), conversion<float, u32>(t, "rn.f32.u32"), conversion<float, s64>(t, "rn.f32.s64"), conversion<float, u64>(t, "rn.f32.u64");
  conversion<float, s16>(t, "rn.f32.s16"), conversion<float, u16>(t, "rn.f32.u16"), conversion<double, s16>(t, "rn.f64.s16"), conversion<double, u16>(t, "rn.f64.u16");
  conversion<double, s32>(t, "rn.f64.s32"), conversion<double, u32>(t, "rn.f64.u32"), conversion<double, s64>(t, "rn.f64.s64"), conversion<double, u64>(t, "rn.f64.u64");
  conversion<double, float>(t, "f64.f32"), conversion<float, double>(t, "rn.f32.f64");
  t["cvt.f32.f16"] = one<float, u16, from_half>;
  t["cvt.rn.f16.f32"] = one<u16, float, to_half>;
  t["cvt.rn.bf16.f32"] = one<u16, float, to_bfloat16>;
  t["cvt.sat.f32.f32"] = one<float, float, saturated>;
  t["cvt.rni.s32.f32"] = one<s32, float, [](float a) { return (s32)std::nearbyint(a); }>;
  t["cvt.rni.f32.f32"] = one<float, float, [](float a) { return std::nearbyint(a); }>;
  t["cvt.rzi.f32.f32"] = one<float, float, [](float a) { return std::trunc(a); }>;
  t["cvt.rzi.s64.f32"] = one<s64, float, [](float a) { return (s64)a; }>;
  t["cvt.rni.s32.f64"] = one<s32, double, [](double a) { return (s32)std::nearbyint(a); }>;

  t["ex2.approx.ftz.f32"] = one<float, float, [](float a) { return flushed(std::exp2(flushed(a))); }>;
  t["ex2.approx.f32"] = one<float, float, [](float a) { return std::exp2(a); }>;
  t["lg2.approx.ftz.f32"] = one<float, float, [](float a) { return std::log2(flushed(a)); }>;
  t["lg2.approx.f32"] = one<float, float, [](float a) { return std::log2(a); }>;
  t["rcp.approx.ftz.f32"] = one<float, float, [](float a) { return flushed(1 / flushed(a)); }>;
  t["rcp.approx.ftz.f64"] = one<double, double, reciprocal_high>;
  t["div.approx.f32"] = binary<float, [](float a, float b) { return a / b; }>;
  t["fma.rm.f32"] = fused<float, fma_down>;

  t["shfl.bfly.b32"] = shuffle<butterfly>, t["shfl.down.b32"] = shuffle<down>, t["shfl.up.b32"] = shuffle<up>, t["shfl.idx.b32"] = shuffle<index>;
  t["vote.ballot.b32"] = vote_ballot;
  t["vote.any.pred"] = vote_any;
  t["bar.warp"] = sync_warp;
  t["griddepcontrol.wait"] = [](Warp& w, const Instruction&, u32) { w.waited = true; };
  t["griddepcontrol.launch_dependents"] = [](Warp&, const Instruction&, u32) {};  // kernels run one after another here
  return t;
}

}  // namespace

Handler find_handler(const std::string& name) {
  static const Table table = make_table();
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

}  // namespace emulator
