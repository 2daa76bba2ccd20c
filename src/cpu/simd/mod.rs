//! Registers of pixels: one thin module for each instruction set, chosen at run time.
//!
//! The loss code is written once over [`Vector`]. On 64-bit Arm the portable module is compiled to NEON, which every such
//! machine has, so it needs no module of its own.

/// Intrinsics of the module's instruction set.
#[cfg(target_arch = "x86_64")]
macro_rules! intrinsics {
    ($body:expr) => {
        // SAFETY: the registers' methods are `inline(always)` and reached only from functions compiled with these
        // instructions, which `InstructionSet::available` has found on this machine; what a pointer points to is the promise
        // of the caller of `load` and `store`.
        unsafe { $body }
    };
}

/// Arithmetic operators of a register type from its intrinsics.
#[cfg(target_arch = "x86_64")]
macro_rules! operators {
    ($name:ident, $add:ident, $sub:ident, $mul:ident, $div:ident) => {
        operators!(@one $name, Add, add, $add);
        operators!(@one $name, Sub, sub, $sub);
        operators!(@one $name, Mul, mul, $mul);
        operators!(@one $name, Div, div, $div);
    };
    (@one $name:ident, $operator:ident, $method:ident, $intrinsic:ident) => {
        impl $operator for $name {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(intrinsics!($intrinsic(self.0, other.0)))
            }
        }
    };
}

/// The part of `Vector` that is about several registers, for one.
macro_rules! single_register {
    () => {
        type Register = Self;
        #[inline(always)]
        fn add_up(self, sum: Self) -> Self {
            sum + self
        }
        #[inline(always)]
        fn add_products(self, factor: Self, sum: Self) -> Self {
            self.mul_add(factor, sum)
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod elementary;
pub mod portable;
pub mod several;
pub mod tables;

use std::ops::{Add, Mul, Sub};
use std::sync::OnceLock;

use half::{bf16, f16};

use crate::loss::real::Real;
use crate::tensor::DType;

/// Lanes of the widest [`Vector`], two registers of AVX-512: tiles are padded to a multiple of it.
pub const MAX_LANES: usize = 32;
/// Lanes of the widest machine register.
pub const REGISTER_LANES: usize = 16;

/// The types that losses are computed in.
pub trait Element:
    Copy + Send + Sync + Default + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + 'static
{
    /// Its dtype.
    const DTYPE: DType;
    /// From double, rounded.
    fn from_f64(value: f64) -> Self;
    /// To double, exact.
    fn to_f64(self) -> f64;
    /// From an integer below 2^24 in size, exact.
    fn from_i32(value: i32) -> Self;
    /// A whole number of 32 bits as an integer.
    fn to_i32(self) -> i32;
    /// Do `work` on registers of the instruction set.
    fn dispatch<W: Work<Self>>(set: InstructionSet, work: W) -> W::Output;
}

/// Work that is compiled once for each instruction set. `run` must be `inline(always)`, as all that it calls in its loops,
/// so that it becomes part of a function compiled with the instructions.
pub trait Work<T> {
    /// What it gives.
    type Output;
    /// Do it.
    fn run<V: Vector<Element = T>>(self) -> Self::Output;
}

impl Element for f32 {
    const DTYPE: DType = DType::Float32;
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn from_i32(value: i32) -> Self {
        value as f32
    }
    #[inline(always)]
    fn to_i32(self) -> i32 {
        self as i32
    }
    #[inline(always)]
    fn dispatch<W: Work<f32>>(set: InstructionSet, work: W) -> W::Output {
        match set {
            InstructionSet::Portable => work.run::<portable::F32x4>(),
            // SAFETY: an `InstructionSet` comes from `available`, which found these instructions on this machine.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => unsafe { with_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => unsafe { with_avx512(work) },
        }
    }
}

impl Element for f64 {
    const DTYPE: DType = DType::Float64;
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn from_i32(value: i32) -> Self {
        f64::from(value)
    }
    #[inline(always)]
    fn to_i32(self) -> i32 {
        self as i32
    }
    #[inline(always)]
    fn dispatch<W: Work<f64>>(_: InstructionSet, work: W) -> W::Output {
        work.run::<portable::F64x4>()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_avx2<W: Work<f32>>(work: W) -> W::Output {
    work.run::<avx2::F32x8>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
fn with_avx512<W: Work<f32>>(work: W) -> W::Output {
    work.run::<avx512::F32x16>()
}

/// A register of pixels.
pub trait Vector: Real {
    /// What a lane holds.
    type Element: Element;
    /// How many.
    const LANES: usize;
    /// How many machine registers they are in.
    const REGISTERS: usize = 1;
    /// One of these.
    type Register: Vector<Element = Self::Element>;

    /// `sum` and each of the registers, one after the other.
    fn add_up(self, sum: Self::Register) -> Self::Register;
    /// `sum` and the products of each of the registers, likewise.
    fn add_products(self, factor: Self, sum: Self::Register) -> Self::Register;
    /// The same element in every lane.
    fn splat_element(value: Self::Element) -> Self;
    /// Read `LANES` elements, aligned or not.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load(from: *const Self::Element) -> Self;
    /// Write `LANES` elements, aligned or not.
    ///
    /// # Safety
    /// They must be writable.
    unsafe fn store(self, to: *mut Self::Element);
    /// As [`Vector::store`], past the cache where there is an instruction for it. [`end_streams`] must come before another thread reads
    /// them.
    ///
    /// # Safety
    /// They must be writable, and the first aligned as a register is.
    #[inline(always)]
    unsafe fn stream(self, to: *mut Self::Element) {
        // SAFETY: the caller's promise.
        unsafe { self.store(to) }
    }
    /// Whether [`Vector::exchange`] is a few instructions.
    const EXCHANGES: bool = Self::TAKES_LANES;
    /// Lanes with the bit in `low` change places with lanes without it in `high`.
    #[inline(always)]
    fn exchange<const BIT: usize>(low: Self, high: Self) -> (Self, Self) {
        let lanes = const { &across(BIT) };
        (
            low.take_lanes(const { lanes_with(BIT) }, lanes, high),
            high.take_lanes(const { !lanes_with(BIT) }, lanes, low),
        )
    }
    /// The elements at `LANES` rising indices, the last less than `LANES` above the first.
    ///
    /// # Safety
    /// The indices must be readable, and `LANES` elements from the first index on.
    #[inline(always)]
    unsafe fn pick_near(from: *const Self::Element, indices: *const i32) -> Self {
        // SAFETY: the elements are among those of the caller's promise.
        unsafe { pick(from, indices) }
    }
    /// Whether [`Vector::take_lanes`] is one instruction, of sixteen lanes.
    const TAKES_LANES: bool = false;
    /// Lanes of `from`, by index, where the mask has a bit; else those of `self`.
    #[inline(always)]
    fn take_lanes(self, mask: u16, lanes: &[i32; 16], from: Self) -> Self {
        let (mut result, mut source) = ([Self::Element::default(); MAX_LANES], [Self::Element::default(); MAX_LANES]);
        // SAFETY: the arrays hold at least LANES elements.
        unsafe {
            self.store(result.as_mut_ptr());
            from.store(source.as_mut_ptr());
        }
        for i in 0..Self::LANES.min(16) {
            if mask >> i & 1 == 1 {
                result[i] = source[lanes[i] as usize];
            }
        }
        // SAFETY: as above.
        unsafe { Self::load(result.as_ptr()) }
    }
    /// Read `LANES` singles.
    ///
    /// # Safety
    /// They must be readable.
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { load_each(from, |x| Self::Element::from_f64(f64::from(x))) }
    }
    /// Write `LANES` singles.
    ///
    /// # Safety
    /// They must be writable.
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { store_each(self, to, |x| x.to_f64() as f32) }
    }
    /// Read `LANES` doubles.
    ///
    /// # Safety
    /// They must be readable.
    #[inline(always)]
    unsafe fn load_f64(from: *const f64) -> Self {
        // SAFETY: the caller's promise.
        unsafe { load_each(from, Self::Element::from_f64) }
    }
    /// Write `LANES` doubles.
    ///
    /// # Safety
    /// They must be writable.
    #[inline(always)]
    unsafe fn store_f64(self, to: *mut f64) {
        // SAFETY: the caller's promise.
        unsafe { store_each(self, to, Element::to_f64) }
    }
    /// Read `LANES` halves.
    ///
    /// # Safety
    /// They must be readable.
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller's promise.
        unsafe { load_each(from, |x| Self::Element::from_f64(x.to_f64())) }
    }
    /// Write `LANES` halves, rounded to nearest even.
    ///
    /// # Safety
    /// They must be writable.
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16) {
        // SAFETY: the caller's promise.
        unsafe { store_each(self, to, |x| f16::from_f64(x.to_f64())) }
    }
    /// Read `LANES` bfloat16.
    ///
    /// # Safety
    /// They must be readable.
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: the caller's promise.
        unsafe { load_each(from, |x| Self::Element::from_f64(x.to_f64())) }
    }
    /// Write `LANES` bfloat16, rounded to nearest even.
    ///
    /// # Safety
    /// They must be writable.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: the caller's promise.
        unsafe { store_each(self, to, |x| bf16::from_f64(x.to_f64())) }
    }
    /// The lanes as doubles, added to `sums`, of which there are at least `LANES`.
    fn add_to(self, sums: &mut [f64]);
    /// Whether the mask holds in every lane.
    fn all(mask: Self::Mask) -> bool;
    /// Whether the mask holds in some lane.
    fn any(mask: Self::Mask) -> bool;

    /// The lanes added up in double, always in the same order.
    #[inline(always)]
    fn sum(self) -> f64 {
        let mut sums = [0.0; MAX_LANES];
        self.add_to(&mut sums);
        sums.iter().sum()
    }
}

/// For each lane, the one whose number differs in the bit.
const fn across(bit: usize) -> [i32; 16] {
    let (mut across, mut lane) = ([0; 16], 0);
    while lane < 16 {
        across[lane] = (lane ^ bit) as i32;
        lane += 1;
    }
    across
}

/// The lanes whose number has the bit.
const fn lanes_with(bit: usize) -> u16 {
    let (mut with, mut lane) = (0, 0);
    while lane < 16 {
        with |= ((lane / bit % 2) as u16) << lane;
        lane += 1;
    }
    with
}

/// Have all that [`Vector::stream`] wrote arrive before what is written from now on.
pub fn end_streams() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the baseline.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// `LANES` elements of another type, converted one by one.
///
/// # Safety
/// They must be readable.
#[inline(always)]
unsafe fn load_each<V: Vector, H: Copy>(from: *const H, convert: impl Fn(H) -> V::Element) -> V {
    let mut lanes = [V::Element::default(); MAX_LANES];
    for (i, lane) in lanes.iter_mut().enumerate().take(V::LANES) {
        // SAFETY: i < LANES, and the caller's promise.
        *lane = convert(unsafe { from.add(i).read_unaligned() });
    }
    // SAFETY: the array holds at least LANES elements.
    unsafe { V::load(lanes.as_ptr()) }
}

/// The elements at `LANES` indices.
///
/// # Safety
/// They and the indices must be readable.
#[inline(always)]
pub unsafe fn pick<V: Vector>(from: *const V::Element, indices: *const i32) -> V {
    // SAFETY: the caller's promise.
    unsafe { load_each(indices, |index| *from.offset(index as isize)) }
}

/// Write the lanes as another type, converted one by one.
///
/// # Safety
/// `LANES` elements must be writable.
#[inline(always)]
unsafe fn store_each<V: Vector, H: Copy>(vector: V, to: *mut H, convert: impl Fn(V::Element) -> H) {
    let mut lanes = [V::Element::default(); MAX_LANES];
    // SAFETY: the array holds at least LANES elements.
    unsafe { vector.store(lanes.as_mut_ptr()) };
    for (i, lane) in lanes.iter().enumerate().take(V::LANES) {
        // SAFETY: i < LANES, and the caller's promise.
        unsafe { to.add(i).write_unaligned(convert(*lane)) };
    }
}

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// Plain Rust, vectorised by the compiler for the baseline of the target.
    Portable,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, DQ, BW and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl InstructionSet {
    /// Every one that this machine can run, the best last.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut sets = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                sets.push(Self::Avx2);
                let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq");
                if wide && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
                    sets.push(Self::Avx512);
                }
            }
        }
        sets
    }

    /// The best one, or the one that `RAREPIXEL_INSTRUCTION_SET` (portable, avx2, avx512) asks for, if the machine has it.
    pub fn best() -> Self {
        static BEST: OnceLock<InstructionSet> = OnceLock::new();
        *BEST.get_or_init(|| {
            let available = Self::available();
            let wanted = std::env::var("RAREPIXEL_INSTRUCTION_SET").unwrap_or_default();
            let chosen = available.iter().find(|set| set.name() == wanted).or(available.last());
            *chosen.expect("the portable set is always there")
        })
    }

    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
        }
    }
}
