// The windows of a target behind the pixels of a smaller map: those of adaptive pooling.

// floor(i from / to) to ceil((i + 1) from / to).
struct Window {
  int64 begin, end;
  __device__ __forceinline__ Window(int64 i, int64 from, int64 to) : begin(i * from / to), end(((i + 1) * from + to - 1) / to) {}
};

// The window behind one pixel.
struct Labels {
  const LABEL* target;  // of the sample
  Window rows, columns;

  __device__ __forceinline__ Labels(const Arguments& a, int64 sample, int64 pixel)
      : target((const LABEL*)a.target + offset(a.target_strides, sample, 0)),
        rows(pixel / a.map.width, a.full.height, a.map.height),
        columns(pixel % a.map.width, a.full.width, a.map.width) {}

  // visit(the class) of every pixel.
  template <typename Visit> __device__ __forceinline__ void each(const Arguments& a, const Visit& visit) const {
    for (int64 row = rows.begin; row < rows.end; ++row) {
      for (int64 column = columns.begin; column < columns.end; ++column) {
        visit(decode(load(target + (row * a.full.width + column) * a.target_strides.pixel), a));
      }
    }
  }
};
