// The ops of a compiled module, a line each: csrc/bind/<name>.cpp defines expose_<name>, and module.cpp walks this
// list. No include guard: who reads it says by PFK_OP what becomes of a name.

PFK_OP(affine_coupling)
PFK_OP(assignment)
PFK_OP(cnf_trajectory)
PFK_OP(conv1x1)
PFK_OP(hutchinson)
PFK_OP(jump_bins)
PFK_OP(lu_weight)
PFK_OP(made)
PFK_OP(modulated_norm)
PFK_OP(nearest)
PFK_OP(path_sample)
PFK_OP(power_series)
PFK_OP(random_numbers)
PFK_OP(rk_step)
PFK_OP(rq_spline)
PFK_OP(sinkhorn)

#ifdef PFK_BACKEND_CPU // ops that have no CUDA kernel
PFK_OP(activation_tangents)
PFK_OP(align)
PFK_OP(apply_edits)
PFK_OP(attention)
PFK_OP(causal_decode)
PFK_OP(discrete_loss)
PFK_OP(drift)
PFK_OP(elementary)
PFK_OP(jump_step)
PFK_OP(lipswish)
PFK_OP(mlp)
#endif
