// The way of a pass over its pixels: visit(logits, what the pixel should be, sample, pixel, inside, write) for each. With any number of
// classes a block is one warp whose lanes visit together until the last is done: `inside` says whether a lane has a pixel. write(c, g) is for
// a pass that STORES the gradient; upsampled logits have another way there, and no `write`. A `stage` that is used has been asked for the first
// pixels.

// What `Logits` weighs the classes with.
#define CLASS_WEIGHTS [&](int c) { return weight_of(a, c); }
#define SHARE_WEIGHTS [&](int c) { return class_mass(a, c, t(c)); }

#if SIZES == 2  // columns of the target, from top to bottom
template <bool STORES, typename Visit, typename... Unused>
__device__ __forceinline__ void each_pixel(const Arguments& a, const Way& way, const Visit& visit, const Unused&...) {
  for (int64 index = way.block; index < parts_of_a_row(a); index += a.blocks) {
    const Part part(a, way.row, index);
    const int64 x = part.strip * THREADS + threadIdx.x;
    const bool inside = x < a.full.width;
    const LABEL* labels = (const LABEL*)a.target + offset(a.target_strides, part.sample, 0);
    Column column(a, part.sample, x);
    const int64 end = smaller((part.band + 1) * a.band, a.full.height);
    int64 y = part.band * a.band;
    for (Tap tap(a.vertical, y); y < end; tap.next(a.vertical), ++y) {
      column.move(tap);
      const int64 pixel = y * a.full.width + x;
      const int label = inside ? decode(load(labels + pixel * a.target_strides.pixel), a) : IGNORED;
      const auto z = [&](int c) { return label >= 0 ? column(c) : (Real)0; };
      const Logits logits(a, z, CLASS_WEIGHTS);
      visit(logits, label, label >= 0 ? column.of(label) : (Real)0, part.sample, pixel, inside);
    }
  }
}
#elif CLASSES
template <bool STORES, typename Visit, typename Kind = Stage<false>>
__device__ __forceinline__ void each_pixel(const Arguments& a, Way way, const Visit& visit, Kind* stage = nullptr) {
  for (; way.more(); way.next(a)) {
    const Input* from = logits_at(a, way);
    Block<Input> block;
    if (!Kind::USED) block.load_from(from, a.input_strides);
#ifndef LABEL
    Block<Real> target;
    target.load_from((const Real*)a.target + offset(a.target_strides, way.sample, way.pixel), a.target_strides);
#elif !SOFT
    int least = 0;
    LABEL labels[WIDTH];
    if constexpr (Kind::USED) {
      stage->take(block, labels);
      Way next = way;
      next.next(a);
      ask(a, next, *stage);
    } else {
      load<LABEL, WIDTH>(labels_at(a, way), labels);
    }
#endif
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      // The logits of pixel k are no longer needed once the exponentials are there: the gradient takes their place.
      const auto write = [&](int c, Real g) { block.at(c, k) = from_real<Input>(g); };
#if SOFT
#ifdef LABEL
      const Shares t(a, way.sample, way.pixel + k);
#else
      const Shares t{target, k};
#endif
      const auto z = [&](int c) { return t.valid ? to_real(block.at(c, k)) : (Real)0; };
      visit(Logits(a, z, SHARE_WEIGHTS), t, way.sample, way.pixel + k, true, write);
#else
      const int y = decode(labels[k], a);
      least = y < least ? y : least;
      const auto z = [&](int c) { return to_real(block.at(c, k)); };
      Real z_y = 0;
#if FEW
      EACH_CLASS(c) {
        if (c == y) z_y += z(c);  // an addition under a predicate: a choice takes the slower pipe
      }
#endif
      const Logits logits(a, z, CLASS_WEIGHTS);  // before the other z_y: registers
#if !FEW
      const Input* own = from + k * a.input_strides.pixel;
      if (y >= 0) z_y = to_real(load(own + y * a.input_strides.channel));
#endif
      visit(logits, y, z_y, way.sample, way.pixel + k, true, write);
#endif
    }
#if MASKED_LATER
    if (STORES && least < 0) {
#pragma unroll
      for (int k = 0; k < WIDTH; ++k) {
        const int y = decode(load(labels_at(a, way) + k), a);  // not kept in registers until here
        if (y >= 0) continue;
        EACH_CLASS(c) block.at(c, k) = from_real<Input>(gradient_without_class(y));
      }
    }
#endif
    if (STORES) block.store_to(a.gradient + offset(a.gradient_strides, way.sample, way.pixel), a.gradient_strides);
  }
}
#else
template <bool STORES, typename Visit, typename... Unused>
__device__ __forceinline__ void each_pixel(const Arguments& a, Way way, const Visit& visit, const Unused&...) {
  for (; __any_sync(0xffffffffu, way.more()); way.next(a)) {
    const bool inside = way.more();
    const Input* from = a.input + offset(a.input_strides, way.sample, way.pixel);
    const int64 stride = a.input_strides.channel;
    const auto write = [&](int c, Real g) {
      a.gradient[offset(a.gradient_strides, way.sample, way.pixel) + c * a.gradient_strides.channel] = from_real<Input>(g);
    };
#if SOFT
#ifdef LABEL
    Shares t(a, inside ? way.sample : 0, way.pixel);
    t.valid &= inside;
    t.wrong &= inside;
#else
    const Shares t{(const Real*)a.target + offset(a.target_strides, way.sample, way.pixel), a.target_strides.channel, inside};
#endif
    const auto z = [&](int c) { return t.valid ? to_real(load(from + c * stride)) : (Real)0; };
    visit(Logits(a, z, SHARE_WEIGHTS), t, way.sample, way.pixel, inside, write);
#else
    const LABEL* label = (const LABEL*)a.target + offset(a.target_strides, way.sample, way.pixel);
    const int y = inside ? decode(load(label), a) : IGNORED;
    const auto z = [&](int c) { return y >= 0 ? to_real(load(from + c * stride)) : (Real)0; };
    visit(Logits(a, z, CLASS_WEIGHTS), y, y >= 0 ? z(y) : (Real)0, way.sample, way.pixel, inside, write);
#endif
  }
}
#endif
