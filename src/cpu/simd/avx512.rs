//! AVX-512: sixteen singles, with mask registers.
//!
//! Every method is `inline(always)` and is only reached from functions compiled with these instructions, which
//! `InstructionSet::available` has found on the machine: see `intrinsics!`.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

use half::{bf16, f16};

use super::Vector;
use super::elementary::{self, SingleBits};
use super::tables::{self, Tables};
use crate::loss::real::Real;

/// Where the high halves of sixteen 32-bit numbers are, among 32 halves; twice.
const HIGH_HALVES: [i16; 32] = {
    let mut indices = [0; 32];
    let mut i = 0;
    while i < 32 {
        indices[i] = 2 * (i as i16 % 16) + 1;
        i += 1;
    }
    indices
};

/// Sixteen singles.
#[derive(Clone, Copy)]
pub struct F32x16(__m512);

operators!(F32x16, _mm512_add_ps, _mm512_sub_ps, _mm512_mul_ps, _mm512_div_ps);

impl Neg for F32x16 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(intrinsics!(_mm512_xor_ps(self.0, _mm512_set1_ps(-0.0))))
    }
}

impl Real for F32x16 {
    type Mask = __mmask16;
    #[inline(always)]
    fn splat(value: f64) -> Self {
        Self(intrinsics!(_mm512_set1_ps(value as f32)))
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(intrinsics!(_mm512_fmadd_ps(self.0, factor.0, term.0)))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(intrinsics!(_mm512_max_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(intrinsics!(_mm512_min_ps(self.0, other.0)))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(intrinsics!(_mm512_sqrt_ps(self.0)))
    }
    #[inline(always)]
    fn exp(self) -> Self {
        tables::exp(self)
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
        tables::ln_from_one(self)
    }
    #[inline(always)]
    fn equals(self, other: Self) -> __mmask16 {
        intrinsics!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0))
    }
    #[inline(always)]
    fn greater(self, other: Self) -> __mmask16 {
        intrinsics!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0))
    }
    #[inline(always)]
    fn select(mask: __mmask16, yes: Self, no: Self) -> Self {
        Self(intrinsics!(_mm512_mask_blend_ps(mask, no.0, yes.0)))
    }
}

impl SingleBits for F32x16 {
    #[inline(always)]
    fn scale(self, n: Self, _: Self) -> Self {
        self.scale_by_floor(n)
    }
    #[inline(always)]
    fn split(self) -> (Self, Self) {
        intrinsics!({
            let bits = _mm512_castps_si512(self.0);
            let exponent = _mm512_srai_epi32::<23>(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f35_04f3)));
            let mantissa = _mm512_sub_epi32(bits, _mm512_slli_epi32::<23>(exponent));
            (Self(_mm512_castsi512_ps(mantissa)), Self(_mm512_cvtepi32_ps(exponent)))
        })
    }
}

impl Tables for F32x16 {
    #[inline(always)]
    fn look_up(self, table: &[f32; 16]) -> Self {
        // SAFETY: the array holds sixteen singles.
        let entries = intrinsics!(_mm512_loadu_ps(table.as_ptr()));
        Self(intrinsics!(_mm512_permutexvar_ps(_mm512_castps_si512(self.0), entries)))
    }
    #[inline(always)]
    fn scale_by_floor(self, n: Self) -> Self {
        Self(intrinsics!(_mm512_scalef_ps(self.0, n.0)))
    }
    #[inline(always)]
    fn digits(self) -> (Self, Self, Self) {
        intrinsics!({
            let mantissa = _mm512_getmant_ps::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(self.0);
            let leading = _mm512_srli_epi32::<19>(_mm512_castps_si512(self.0));
            (Self(mantissa), Self(_mm512_getexp_ps(self.0)), Self(_mm512_castsi512_ps(leading)))
        })
    }
}

impl Vector for F32x16 {
    type Element = f32;
    const LANES: usize = 16;
    single_register!();
    const TAKES_LANES: bool = true;
    #[inline(always)]
    fn take_lanes(self, mask: u16, lanes: &[i32; 16], from: Self) -> Self {
        // SAFETY: the array holds sixteen indices.
        let lanes = intrinsics!(_mm512_loadu_epi32(lanes.as_ptr()));
        Self(intrinsics!(_mm512_mask_permutexvar_ps(self.0, mask, lanes, from.0)))
    }
    #[inline(always)]
    fn splat_element(value: f32) -> Self {
        Self(intrinsics!(_mm512_set1_ps(value)))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(intrinsics!(_mm512_loadu_ps(from)))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        intrinsics!(_mm512_storeu_ps(to, self.0))
    }
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        intrinsics!(_mm512_stream_ps(to, self.0))
    }
    #[inline(always)]
    unsafe fn pick_near(from: *const f32, indices: *const i32) -> Self {
        intrinsics!({
            let start = indices.read_unaligned();
            let indices = _mm512_sub_epi32(_mm512_loadu_epi32(indices), _mm512_set1_epi32(start));
            Self(_mm512_permutexvar_ps(indices, _mm512_loadu_ps(from.offset(start as isize))))
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
        Self(intrinsics!(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))))
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        intrinsics!(_mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        intrinsics!({
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        })
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        intrinsics!({
            // Round to nearest even by adding 0x7fff and the lowest kept bit; a nan must not be carried over into infinity.
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x1_0000));
            let rounded = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_mask_add_epi32(rounded, odd, rounded, _mm512_set1_epi32(1));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let kept = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0_0000));
            // The high halves: one permutation, where shifting and narrowing are three operations.
            let high = _mm512_permutexvar_epi16(_mm512_loadu_epi16(HIGH_HALVES.as_ptr()), kept);
            _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(high));
        })
    }
    #[inline(always)]
    fn add_to(self, sums: &mut [f64]) {
        intrinsics!({
            let low = _mm512_cvtps_pd(_mm512_castps512_ps256(self.0));
            let high = _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(self.0));
            assert!(sums.len() >= Self::LANES);
            let to = sums.as_mut_ptr();
            _mm512_storeu_pd(to, _mm512_add_pd(_mm512_loadu_pd(to), low));
            _mm512_storeu_pd(to.add(8), _mm512_add_pd(_mm512_loadu_pd(to.add(8)), high));
        })
    }
    #[inline(always)]
    fn all(mask: __mmask16) -> bool {
        mask == u16::MAX
    }
    #[inline(always)]
    fn any(mask: __mmask16) -> bool {
        mask != 0
    }
}
