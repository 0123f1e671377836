// The ops of a compiled module: one line each here, one .cpp each beside it. The same sources make `_cpu` and `_cuda`.
#pragma once

#include <array>
#include <vector>

#include "../math/spline.h"
#include "tensor.h"

namespace pfk::bind {

template <size_t N> using Outputs = std::array<Tensor, N>;

// Outputs whose last one is a list of tensors.
template <size_t N> struct OutputsAndList {
    Outputs<N> first;
    Tensors list;
};

Outputs<2> affine_coupling(Frame&, const Tensor& x, const Tensor& params, int mask, int bound, double limit,
                           bool interleaved, bool inverse, bool inplace);
Outputs<2> affine_coupling_backward(Frame&, const Tensor& y, const Tensor& params, const Tensor& dy,
                                    const Tensor& dladj, int mask, int bound, double limit, bool interleaved,
                                    bool inverse);

Outputs<2> conv1x1(Frame&, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& terms);
Outputs<4> conv1x1_backward(Frame&, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& dy,
                            const Tensor& dladj);

Outputs<2> lu_weight(Frame&, const Tensor& lu, const Indices& permutation, const Indices& signs, bool inverse);
Outputs<1> lu_weight_backward(Frame&, const Tensor& lu, const Tensor& weight, const Indices& permutation,
                              const Indices& signs, const Tensor& dweight, const Tensor& dterms, bool inverse);

Outputs<2> cnf_trajectory(Frame&, const Tensor& x, const Tensor& probes, const Tensor& bias, const Tensor& weights,
                          const Tensor& gates, const Tensor& shifts, int64_t width, int64_t depth, int activation,
                          int method, int64_t steps, double step, double scale);
Outputs<6> cnf_trajectory_backward(Frame&, const Tensor& x, const Tensor& probes, const Tensor& bias,
                                   const Tensor& weights, const Tensor& gates, const Tensor& shifts, const Tensor& path,
                                   const Tensor& dpath, const Tensor& dintegrals, int64_t width, int64_t depth,
                                   int activation, int method, int64_t steps, double step, double scale);

Outputs<2> hutchinson(Frame&, const Tensor& images, const Indices& keys, int noise);
Outputs<1> hutchinson_backward(Frame&, const Tensor& images, const Indices& keys, const Tensor& ddivergence,
                               const Tensor& dsquare, int noise);
Outputs<1> hutchinson_directions(Frame&, const Indices& keys, int64_t probes, int64_t size, int noise, bool wide);

#ifdef PFK_BACKEND_CPU // ops that have no CUDA kernel
Outputs<2> lipswish(Frame&, const Tensor& x, const Tensor& beta);
Outputs<2> lipswish_backward(Frame&, const Tensor& x, const Tensor& beta, const Tensor& dvalue, const Tensor& dslope);

// `parameters`: matrices and biases in turn.
Outputs<2> mlp(Frame&, const Tensor& x, const Tensor& shift, const Tensors& parameters, int activation, bool keep);
OutputsAndList<2> mlp_backward(Frame&, const Tensor& x, const Tensor& shift, const Tensors& parameters,
                               const Tensor& kept, const Tensor& dy, const Tensor& dkept, int activation, bool keep);
#endif

Outputs<2> made_forward(Frame&, const Tensor& x, const Tensor& weights, const Tensor& shift, const Indices& plan,
                        const std::vector<int64_t>& hidden, int activation, int residual, int map, int bins,
                        const Numbers& numbers);
Outputs<2> made_inverse(Frame&, const Tensor& z, const Tensor& weights, const Tensor& shift, const Indices& plan,
                        const std::vector<int64_t>& hidden, int activation, int residual, int map, int bins,
                        const Numbers& numbers);
Outputs<3> made_forward_backward(Frame&, const Tensor& x, const Tensor& weights, const Tensor& shift,
                                 const Indices& plan, const Tensor& dy, const Tensor& dladj,
                                 const std::vector<int64_t>& hidden, int activation, int residual, int map, int bins,
                                 const Numbers& numbers);
Outputs<3> made_inverse_backward(Frame&, const Tensor& x, const Tensor& weights, const Tensor& shift,
                                 const Indices& plan, const Tensor& dy, const Tensor& dladj,
                                 const std::vector<int64_t>& hidden, int activation, int residual, int map, int bins,
                                 const Numbers& numbers);

Outputs<2> power_series(Frame&, const Tensor& probe, const Tensors& slopes, const Tensors& weights,
                        const Indices& reached, int64_t terms, int64_t exact_terms, double survival);

// Checks what describes a spline; slopes are 1 where their raw value is zero.
Spline spline_of(const char* op, int bins, int tails, double low, double high, double min_width, double min_height,
                 double min_slope, double softclip, bool inverse);
Outputs<2> rq_spline(Frame&, const Tensor& x, const Tensor& params, int mask, int bins, int tails, double low,
                     double high, double min_width, double min_height, double min_slope, double softclip,
                     bool interleaved, bool inverse);
Outputs<2> rq_spline_backward(Frame&, const Tensor& x, const Tensor& y, const Tensor& params, const Tensor& dy,
                              const Tensor& dladj, int mask, int bins, int tails, double low, double high,
                              double min_width, double min_height, double min_slope, double softclip, bool interleaved,
                              bool inverse);

Outputs<1> rk_combine(Frame&, const Tensor& y, const Tensor& h, const Tensors& k, const Numbers& weights);
OutputsAndList<2> rk_combine_backward(Frame&, const Tensor& h, const Tensors& k, const Tensor& dy,
                                      const Numbers& weights);
Outputs<1> rk_error(Frame&, const Tensor& y0, const Tensor& y1, const Tensor& h, const Tensors& k,
                    const Numbers& weights, double rtol, double atol);
Outputs<4> rk_control(Frame&, const Tensor& y0, const Tensor& y1, const Tensor& k0, const Tensor& k1,
                      const Tensor& clock, const Tensors& k, const Numbers& weights, const Numbers& control,
                      const Numbers& c);

} // namespace pfk::bind
