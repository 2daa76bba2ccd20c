//! AVX2 with FMA: eight singles.
//!
//! Every method is `inline(always)` and is only reached from functions compiled with these instructions, which
//! `InstructionSet::available` has found on the machine: see `intrinsics!`.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::elementary::{self, SingleBits};
use half::{bf16, f16};

use super::Vector;
use crate::loss::real::Real;

/// Eight singles.
#[derive(Clone, Copy)]
pub struct F32x8(__m256);

operators!(F32x8, _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps, _mm256_div_ps);

impl Neg for F32x8 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(intrinsics!(_mm256_xor_ps(self.0, _mm256_set1_ps(-0.0))))
    }
}

impl Real for F32x8 {
    type Mask = __m256;
    #[inline(always)]
    fn splat(value: f64) -> Self {
        Self(intrinsics!(_mm256_set1_ps(value as f32)))
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(intrinsics!(_mm256_fmadd_ps(self.0, factor.0, term.0)))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(intrinsics!(_mm256_max_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(intrinsics!(_mm256_min_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(intrinsics!(_mm256_sqrt_ps(self.0)))
    }
    #[inline(always)]
    fn exp(self) -> Self {
        elementary::exp(self)
    }
    #[inline(always)]
    fn exp_and_m1(self) -> (Self, Self) {
        elementary::exp_and_m1(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        elementary::ln(self)
    }
    #[inline(always)]
    fn ln_from_one(self) -> Self {
        elementary::ln_normal(self)
    }
    #[inline(always)]
    fn equals(self, other: Self) -> __m256 {
        intrinsics!(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0))
    }
    #[inline(always)]
    fn greater(self, other: Self) -> __m256 {
        intrinsics!(_mm256_cmp_ps::<_CMP_GT_OQ>(self.0, other.0))
    }
    #[inline(always)]
    fn select(mask: __m256, yes: Self, no: Self) -> Self {
        Self(intrinsics!(_mm256_blendv_ps(no.0, yes.0, mask)))
    }
}

impl SingleBits for F32x8 {
    #[inline(always)]
    fn scale(self, _: Self, shifted: Self) -> Self {
        intrinsics!({
            // 2^(n + 64) is a normal number; what makes a denormal of the product comes last, and exact before.
            let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted.0));
            let power = _mm256_castsi256_ps(_mm256_add_epi32(power, _mm256_set1_epi32((127 + 64) << 23)));
            let down = _mm256_set1_ps(f32::from_bits((127 - 64) << 23));
            Self(_mm256_mul_ps(_mm256_mul_ps(self.0, power), down))
        })
    }
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        intrinsics!({
            let bits = _mm256_castps_si256(self.0);
            let exponent = _mm256_srai_epi32::<23>(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f35_04f3)));
            let mantissa = _mm256_sub_epi32(bits, _mm256_slli_epi32::<23>(exponent));
            (Self(_mm256_castsi256_ps(mantissa)), Self(_mm256_cvtepi32_ps(exponent)))
        })
    }
}

impl Vector for F32x8 {
    type Element = f32;
    const LANES: usize = 8;
    single_register!();
    #[inline(always)]
    fn splat_element(value: f32) -> Self {
        Self(intrinsics!(_mm256_set1_ps(value)))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(intrinsics!(_mm256_loadu_ps(from)))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        intrinsics!(_mm256_storeu_ps(to, self.0))
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        intrinsics!(_mm256_stream_ps(to, self.0))
    }
    const EXCHANGES: bool = true;
    #[inline(always)]
    fn exchange<const BIT: usize>(low: Self, high: Self) -> (Self, Self) {
        let (a, b) = (low.0, high.0);
        let (low, high) = intrinsics!(match BIT {
            1 => (
                _mm256_blend_ps::<0b1010_1010>(a, _mm256_moveldup_ps(b)),
                _mm256_blend_ps::<0b1010_1010>(_mm256_movehdup_ps(a), b),
            ),
            2 => (_mm256_shuffle_ps::<0b01_00_01_00>(a, b), _mm256_shuffle_ps::<0b11_10_11_10>(a, b)),
            _ => (_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b)),
        });
        (Self(low), Self(high))
    }
    #[inline(always)]
    unsafe fn pick_near(from: *const f32, indices: *const i32) -> Self {
        intrinsics!({
            let start = indices.read_unaligned();
            let indices = _mm256_sub_epi32(_mm256_loadu_si256(indices.cast()), _mm256_set1_epi32(start));
            Self(_mm256_permutevar8x32_ps(_mm256_loadu_ps(from.offset(start as isize)), indices))
        })
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::load(from) }
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { self.store(to) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        Self(intrinsics!(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))))
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        intrinsics!(_mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        intrinsics!({
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
        })
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        intrinsics!({
            // Round to nearest even by adding 0x7fff and the lowest kept bit; a nan must not be carried over into infinity.
            let bits = _mm256_castps_si256(self.0);
            let lowest = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(lowest, _mm256_set1_epi32(0x7fff)));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0));
            let kept = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0_0000), nan);
            let high = _mm256_srli_epi32::<16>(kept);
            // Packing works within each half of the register: put the two halves together afterwards.
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(high, high));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        })
    }
    #[inline(always)]
    fn add_to(self, sums: &mut [f64]) {
        intrinsics!({
            let low = _mm256_cvtps_pd(_mm256_castps256_ps128(self.0));
            let high = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(self.0));
            assert!(sums.len() >= Self::LANES);
            let to = sums.as_mut_ptr();
            _mm256_storeu_pd(to, _mm256_add_pd(_mm256_loadu_pd(to), low));
            _mm256_storeu_pd(to.add(4), _mm256_add_pd(_mm256_loadu_pd(to.add(4)), high));
        })
    }
    #[inline(always)]
    fn all(mask: __m256) -> bool {
        intrinsics!(_mm256_movemask_ps(mask) == 0xff)
    }
    #[inline(always)]
    fn any(mask: __m256) -> bool {
        intrinsics!(_mm256_movemask_ps(mask) != 0)
    }
}
