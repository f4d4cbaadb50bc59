// What torch takes most of a training step for on a processor, done in one pass each: the gradients
// of depthwise convolutions, and bias with activation, forwards and backwards.
//
// Arrays are (N,H,W,C) in memory, C a multiple of 8, of at least 16 for convolutions. Numbers are
// float32 or bfloat16 (the upper half of a float32); weights, biases and all sums are float32.

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

enum class bfloat16 : uint16_t {};

// GCC turns integers into wider ones only in vectors whose size no template decides.
template <int LANES> struct Types;
#define TYPES(LANES)                                                            \
    template <> struct Types<LANES> {                                           \
        typedef float Floats __attribute__((vector_size(4 * LANES)));           \
        typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));          \
        typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));        \
        static Bits wide(Halves v) { return __builtin_convertvector(v, Bits); } \
        static Halves low(Bits v) { return __builtin_convertvector(v, Halves); } \
    };
TYPES(8)
TYPES(16)

template <int LANES> struct Vector : Types<LANES> {
    using typename Types<LANES>::Floats;
    using typename Types<LANES>::Bits;
    using typename Types<LANES>::Halves;

    static Floats load(const float *from) {
        Floats values;
        memcpy(&values, from, sizeof values);
        return values;
    }
    static Floats load(const bfloat16 *from) {
        Halves halves;
        memcpy(&halves, from, sizeof halves);
        return (Floats)(Types<LANES>::wide(halves) << 16);
    }
    static void store(float *to, Floats values) { memcpy(to, &values, sizeof values); }
    static void store(bfloat16 *to, Floats values) {
        const Bits bits = (Bits)values;
        const Bits rounded = bits + 0x7fff + ((bits >> 16) & 1);  // to the nearest, ties to even
        const Halves halves = Types<LANES>::low(rounded >> 16);
        memcpy(to, &halves, sizeof halves);
    }
};

struct Convolution {
    int count, height, width, channels, rows, columns, stride, dilation;
};

// Gradients for VECTORS * 16 channels from `first` on; their K*K sums stay in the nearest cache.
template <typename T, int K, int VECTORS>
void channels_backward(const Convolution &c, const T *images, const float *taps, const T *slopes,
                       T *to_images, float *to_taps, int first) {
    using V = Vector<16>;
    const int margin = (K - 1) / 2 * c.dilation;
    float sums[K * K][VECTORS * 16] = {};
    for (int n = 0; n < c.count; n++) {
        const T *image = images + (size_t)n * c.height * c.width * c.channels + first;
        const T *slope = slopes + (size_t)n * c.rows * c.columns * c.channels + first;
        T *to_image = to_images + (image - images);
        for (int y = 0; y < c.rows; y++)
            for (int i = 0; i < K; i++) {
                const int row = y * c.stride - margin + i * c.dilation;
                if (row < 0 || row >= c.height) continue;
                for (int j = 0; j < K; j++) {
                    const int shift = j * c.dilation - margin;
                    const int begin = shift >= 0 ? 0 : (c.stride - 1 - shift) / c.stride;
                    const int room = c.width - 1 - shift;  // none where the picture is narrower
                    const int end = room < 0 ? 0 : std::min(c.columns, room / c.stride + 1);
                    typename V::Floats sum[VECTORS];
                    for (int v = 0; v < VECTORS; v++) sum[v] = V::load(sums[i * K + j] + 16 * v);
                    for (int x = begin; x < end; x++) {
                        const T *here = slope + ((size_t)y * c.columns + x) * c.channels;
                        const T *seen =
                            image + ((size_t)row * c.width + x * c.stride + shift) * c.channels;
                        for (int v = 0; v < VECTORS; v++)
                            sum[v] += V::load(here + 16 * v) * V::load(seen + 16 * v);
                    }
                    for (int v = 0; v < VECTORS; v++) V::store(sums[i * K + j] + 16 * v, sum[v]);
                }
            }
        for (int row = 0; row < c.height; row++)
            for (int column = 0; column < c.width; column++) {
                typename V::Floats sum[VECTORS] = {};
                // with a stride every second tap falls between the output's pixels
                for (int i = (row + margin) % c.stride; i < K; i += c.stride) {
                    const int y = (row + margin - i * c.dilation) / c.stride;
                    if (row + margin < i * c.dilation) break;
                    if (y >= c.rows) continue;
                    for (int j = (column + margin) % c.stride; j < K; j += c.stride) {
                        const int x = (column + margin - j * c.dilation) / c.stride;
                        if (column + margin < j * c.dilation) break;
                        if (x >= c.columns) continue;
                        const T *there = slope + ((size_t)y * c.columns + x) * c.channels;
                        const float *tap = taps + (size_t)(i * K + j) * c.channels + first;
                        for (int v = 0; v < VECTORS; v++)
                            sum[v] += V::load(there + 16 * v) * V::load(tap + 16 * v);
                    }
                }
                T *to = to_image + ((size_t)row * c.width + column) * c.channels;
                for (int v = 0; v < VECTORS; v++) V::store(to + 16 * v, sum[v]);
            }
    }
    for (int k = 0; k < K * K; k++)
        memcpy(to_taps + (size_t)k * c.channels + first, sums[k], sizeof sums[k]);
}

// What is left of the channels after blocks of 64 goes by 16; the last block may do some twice.
template <typename T, int K>
void depthwise_backward(const Convolution &c, const T *images, const float *taps, const T *slopes,
                        T *to_images, float *to_taps, int threads) {
    const int large = c.channels / 64, small = (c.channels % 64 + 15) / 16;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int block = 0; block < large + small; block++) {
        if (block < large)
            channels_backward<T, K, 4>(c, images, taps, slopes, to_images, to_taps, 64 * block);
        else
            channels_backward<T, K, 1>(
                c, images, taps, slopes, to_images, to_taps,
                std::min(64 * large + 16 * (block - large), c.channels - 16));
    }
}

enum Activation { NONE, RELU, HARDSWISH };

template <int LANES, Activation A>
typename Vector<LANES>::Floats activated(typename Vector<LANES>::Floats value) {
    const typename Vector<LANES>::Floats zero = {}, six = zero + 6;
    if (A == RELU) return value > zero ? value : zero;
    if (A == NONE) return value;
    const auto gate = value + 3;
    return value * (gate < zero ? zero : gate > six ? six : gate) * (1.f / 6);
}

template <int LANES, Activation A>
typename Vector<LANES>::Floats steepness(typename Vector<LANES>::Floats value) {
    const typename Vector<LANES>::Floats zero = {}, one = zero + 1;
    if (A == RELU) return value > zero ? one : zero;
    if (A == NONE) return one;
    return value > zero - 3 ? (value < zero + 3 ? value * (1.f / 3) + 0.5f : one) : zero;
}

template <typename T, Activation A>
void forward(const T *values, const float *bias, T *to, long pixels, long channels, int threads) {
    using V = Vector<8>;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long pixel = 0; pixel < pixels; pixel++)
        for (long c = 0; c < channels; c += 8) {
            const size_t at = pixel * channels + c;
            V::store(to + at, activated<8, A>(V::load(values + at) + V::load(bias + c)));
        }
}

template <typename T, Activation A>
void backward(const T *slopes, const T *values, const float *bias, T *to_values, float *to_bias,
              long pixels, long channels, int threads) {
    using V = Vector<8>;
    std::fill_n(to_bias, channels, 0.f);
#pragma omp parallel for num_threads(threads) if (threads > 1) reduction(+ : to_bias[ : channels])
    for (long pixel = 0; pixel < pixels; pixel++)
        for (long c = 0; c < channels; c += 8) {
            const size_t at = pixel * channels + c;
            const auto slope =
                V::load(slopes + at) * steepness<8, A>(V::load(values + at) + V::load(bias + c));
            V::store(to_values + at, slope);
            V::store(to_bias + c, V::load(to_bias + c) + slope);
        }
}

}  // namespace

// Of each function one for float32 and one for bfloat16; of activations, three.
#define CONVOLUTION(NAME, T)                                                                       \
    extern "C" void NAME(const T *images, const float *taps, long count, long height, long width,  \
                         long channels, long kernel, long stride, long dilation, const T *slopes,  \
                         long rows, long columns, T *to_images, float *to_taps, int threads) {     \
        const Convolution c{(int)count, (int)height, (int)width, (int)channels,                    \
                            (int)rows, (int)columns, (int)stride, (int)dilation};                  \
        auto *work = kernel == 3 ? depthwise_backward<T, 3> : depthwise_backward<T, 5>;            \
        work(c, images, taps, slopes, to_images, to_taps, threads);                                \
    }
#define ACTIVATION(NAME, T, A)                                                                     \
    extern "C" void NAME##_forward(const T *values, const float *bias, T *to, long pixels,         \
                                   long channels, int threads) {                                   \
        forward<T, A>(values, bias, to, pixels, channels, threads);                                \
    }                                                                                              \
    extern "C" void NAME##_backward(const T *slopes, const T *values, const float *bias,           \
                                    T *to_values, float *to_bias, long pixels, long channels,      \
                                    int threads) {                                                 \
        backward<T, A>(slopes, values, bias, to_values, to_bias, pixels, channels, threads);       \
    }
CONVOLUTION(depthwise_float32, float)
CONVOLUTION(depthwise_bfloat16, bfloat16)
ACTIVATION(none_float32, float, NONE)
ACTIVATION(relu_float32, float, RELU)
ACTIVATION(hardswish_float32, float, HARDSWISH)
ACTIVATION(none_bfloat16, bfloat16, NONE)
ACTIVATION(relu_bfloat16, bfloat16, RELU)
ACTIVATION(hardswish_bfloat16, bfloat16, HARDSWISH)
