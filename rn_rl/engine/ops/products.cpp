// Products of many small matrices, one for each seed, in single precision: out = bias + a b, then out = 0
// where out < 0 (relu), then out = 0 where a mask is not positive (the gradient of relu). Bias, relu and mask
// are optional.
//
// Compiled by products.py for the machine that it runs on. The vectors are those of GCC and Clang, so the
// same source uses AVX-512, AVX2 or NEON. The result of a seed does not depend on the number of seeds.

#include <cstdint>
#include <cstring>

typedef float vec __attribute__((vector_size(64), aligned(4)));  // may lie anywhere
constexpr int64_t V = 16;      // numbers in a vector
constexpr int64_t R = 12;      // rows of a tile
constexpr int64_t DEEP = 256;  // terms of a sum before it is stored, so that a panel fits into the L1 cache
constexpr int64_t FEW = 4;     // rows of a, or columns of b, that are multiplied as vectors

struct Layout {
    int64_t seeds, m, n, k;
    int64_t a_seed, a_row, a_col;
    int64_t b_seed, b_row, b_col;
    int64_t bias_seed, bias_row, bias_col;
    int64_t mask_seed, mask_row, mask_col;
    int64_t out_seed, relu;
};

static inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
static inline void store(float* p, vec x) { *reinterpret_cast<vec*>(p) = x; }

template <int S>
static inline void exchange(vec* x) {  // one stage of a transposition: swaps blocks of S x S
    for (int i = 0; i < V; i++) {
        if (i & S) continue;
        vec a = x[i], b = x[i + S];
        if constexpr (S == 8) {
            x[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
            x[i + S] = __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
        } else if constexpr (S == 4) {
            x[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
            x[i + S] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
        } else if constexpr (S == 2) {
            x[i] = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
            x[i + S] = __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
        } else {
            x[i] = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
            x[i + S] = __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
        }
    }
}

static inline void transpose(vec* x) {  // 16 x 16
    exchange<8>(x);
    exchange<4>(x);
    exchange<2>(x);
    exchange<1>(x);
}

// Copy k rows of w columns of b into a panel with rows of width numbers, zeros behind the columns.
static void pack(const float* b, const Layout& s, int64_t k, int64_t w, int64_t width, float* panel) {
    if (w < width) std::memset(panel, 0, sizeof(float) * k * width);
    if (s.b_col == 1) {
        for (int64_t i = 0; i < k; i++) std::memcpy(panel + i * width, b + i * s.b_row, sizeof(float) * w);
        return;
    }
    int64_t j = 0;
    if (s.b_row == 1)
        for (; j + V <= w; j += V) {
            int64_t i = 0;
            for (; i + V <= k; i += V) {
                vec x[V];
                for (int64_t r = 0; r < V; r++) x[r] = load(b + (j + r) * s.b_col + i);
                transpose(x);
                for (int64_t r = 0; r < V; r++) store(panel + (i + r) * width + j, x[r]);
            }
            for (; i < k; i++)
                for (int64_t r = 0; r < V; r++) panel[i * width + j + r] = b[(j + r) * s.b_col + i];
        }
    for (; j < w; j++)
        for (int64_t i = 0; i < k; i++) panel[i * width + j] = b[i * s.b_row + j * s.b_col];
}

// Add a (rows x k) times a panel (k x W vectors) to rows of out, of which w columns exist.
template <int ROWS, int W>
static inline void tile(const float* a, const Layout& s, const float* panel, int64_t row, int64_t k,
                        float* out, int64_t w) {
    vec sum[ROWS][W];
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < W; c++) {
            if (w == W * V) {
                sum[r][c] = load(out + r * s.n + c * V);
            } else {
                float some[V] = {0};
                for (int64_t j = 0; j < V && c * V + j < w; j++) some[j] = out[r * s.n + c * V + j];
                sum[r][c] = load(some);
            }
        }
    for (int64_t i = 0; i < k; i++) {
        vec b[W];
        for (int c = 0; c < W; c++) b[c] = load(panel + i * row + c * V);
        for (int r = 0; r < ROWS; r++) {
            float x = a[r * s.a_row + i * s.a_col];
            for (int c = 0; c < W; c++) sum[r][c] += x * b[c];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < W; c++) {
            if (w == W * V) {
                store(out + r * s.n + c * V, sum[r][c]);
            } else {
                float some[V];
                store(some, sum[r][c]);
                for (int64_t j = 0; j < V && c * V + j < w; j++) out[r * s.n + c * V + j] = some[j];
            }
        }
}

template <int W>
static void rows(const float* a, const Layout& s, const float* panel, int64_t row, int64_t k, float* out,
                 int64_t w) {
    int64_t i = 0;
    for (; i + R <= s.m; i += R) tile<R, W>(a + i * s.a_row, s, panel, row, k, out + i * s.n, w);
    a += i * s.a_row;
    out += i * s.n;
    int64_t left = s.m - i;
    if (left >= 8) {
        tile<8, W>(a, s, panel, row, k, out, w);
        a += 8 * s.a_row, out += 8 * s.n, left -= 8;
    }
    if (left >= 4) {
        tile<4, W>(a, s, panel, row, k, out, w);
        a += 4 * s.a_row, out += 4 * s.n, left -= 4;
    }
    if (left >= 2) {
        tile<2, W>(a, s, panel, row, k, out, w);
        a += 2 * s.a_row, out += 2 * s.n, left -= 2;
    }
    if (left) tile<1, W>(a, s, panel, row, k, out, w);
}

// Add the products of a vector x (k) with n vectors y, each contiguous, to every step-th number of out.
static void dots(const float* x, int64_t k, const float* y, int64_t between, int64_t n, float* out,
                 int64_t step) {
    for (int64_t j = 0; j < n; j += V) {
        const int64_t w = n - j < V ? n - j : V;
        vec sum[V] = {};
        int64_t i = 0;
        for (; i + V <= k; i += V) {
            vec z = load(x + i);
            for (int64_t r = 0; r < V; r++) sum[r] += z * load(y + (j + (r < w ? r : w - 1)) * between + i);
        }
        transpose(sum);
        vec total = sum[0];
        for (int r = 1; r < V; r++) total += sum[r];
        float some[V];
        store(some, total);
        for (int64_t r = 0; r < w; r++) {
            float rest = 0;
            for (int64_t t = i; t < k; t++) rest += x[t] * y[(j + r) * between + t];
            out[(j + r) * step] += some[r] + rest;
        }
    }
}

static void product(const float* a, const float* b, float* out, const Layout& s) {
    alignas(64) static thread_local float panel[DEEP * 2 * V];
    if (s.m <= FEW && s.b_row == 1 && s.a_col == 1) {
        for (int64_t i = 0; i < s.m; i++) dots(a + i * s.a_row, s.k, b, s.b_col, s.n, out + i * s.n, 1);
        return;
    }
    if (s.n <= FEW && s.a_col == 1 && s.k <= DEEP * 2 * V) {
        for (int64_t j = 0; j < s.n; j++) {
            for (int64_t i = 0; i < s.k; i++) panel[i] = b[i * s.b_row + j * s.b_col];
            dots(panel, s.k, a, s.a_row, s.m, out + j, s.n);
        }
        return;
    }
    for (int64_t i = 0; i < s.k; i += DEEP) {
        const int64_t k = s.k - i < DEEP ? s.k - i : DEEP;
        for (int64_t j = 0; j < s.n;) {
            const int64_t left = s.n - j, width = left > V ? 2 * V : V;
            const int64_t w = left < width ? left : width;
            const float* from = b + i * s.b_row + j * s.b_col;
            const float* use = from;
            int64_t row = s.b_row;
            if (s.b_col != 1 || w < width) {
                pack(from, s, k, w, width, panel);
                use = panel;
                row = width;
            }
            const float* left_of = a + i * s.a_col;
            if (width == 2 * V)
                rows<2>(left_of, s, use, row, k, out + j, w);
            else
                rows<1>(left_of, s, use, row, k, out + j, w);
            j += w;
        }
    }
}

extern "C" void products(const Layout* layout, const float* a, const float* b, const float* bias,
                         const float* mask, float* out) {
    const Layout s = *layout;
    for (int64_t seed = 0; seed < s.seeds; seed++) {
        float* to = out + seed * s.out_seed;
        if (bias == nullptr) {
            std::memset(to, 0, sizeof(float) * s.m * s.n);
        } else {
            const float* from = bias + seed * s.bias_seed;
            for (int64_t i = 0; i < s.m; i++)
                for (int64_t j = 0; j < s.n; j++) to[i * s.n + j] = from[i * s.bias_row + j * s.bias_col];
        }
        product(a + seed * s.a_seed, b + seed * s.b_seed, to, s);
        if (s.relu)
            for (int64_t i = 0; i < s.m * s.n; i++) to[i] = to[i] < 0 ? 0 : to[i];  // keeps NaN
        if (mask != nullptr) {
            const float* from = mask + seed * s.mask_seed;
            for (int64_t i = 0; i < s.m; i++)
                for (int64_t j = 0; j < s.n; j++)
                    if (from[i * s.mask_row + j * s.mask_col] <= 0) to[i * s.n + j] = 0;
        }
    }
}
