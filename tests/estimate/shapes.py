# SPDX-License-Identifier: Apache-2.0
"""The shapes of real models: keys and tensors, as the files that people run have them."""
from gguf_sparse import TYPES


class Model:
    """One model in the making. mix is how its tensors are stored: F16, Q8_0, Q4_K, Q6_K or MXFP4."""

    def __init__(self, arch, mix, layers, embd, vocab, ctx=131072):
        self.arch, self.mix, self.layers, self.embd, self.vocab = arch, mix, layers, embd, vocab
        self.tensors = []
        self.keys = {"general.architecture": arch, "general.type": "model", "general.file_type": 1,
                     "tokenizer.ggml.model": "none"}
        self.set(vocab_size=vocab, context_length=ctx, embedding_length=embd, block_count=layers)

    def set(self, **keys):
        """Keys of the architecture; a double underscore stands for the dot."""
        for k, v in keys.items():
            self.keys[f"{self.arch}.{k.replace('__', '.')}"] = v
        return self

    def attention(self, heads, kv=None, head=None, eps=1e-6, layer_norm=False, base=None):
        self.heads, self.kv = heads, heads if kv is None else kv
        self.head = head or self.embd // heads
        self.set(attention__head_count=heads, attention__head_count_kv=self.kv)
        if head:
            self.set(attention__key_length=head, attention__value_length=head)
        if not isinstance(heads, list):
            self.set(rope__dimension_count=self.head)
        kind = "layer_norm_epsilon" if layer_norm else "layer_norm_rms_epsilon"
        self.set(**{"attention__" + kind: eps})
        if base:
            self.set(rope__freq_base=base)
        return self

    def stored(self, name, dims):
        if len(dims) == 1 or name.endswith("ffn_gate_inp.weight") or ".ssm_conv1d" in name:
            return "F32"
        mix = self.mix
        if mix == "MXFP4":
            mix = "MXFP4" if "exps" in name else "Q8_0"
        if mix == "Q4_K" and (name.startswith("output") or "ffn_down" in name or "attn_v." in name):
            mix = "Q6_K"
        if dims[0] % TYPES[mix][1]:
            mix = "F16" if dims[0] % 32 else "Q8_0"
        return mix

    def add(self, name, *dims, kind=None):
        self.tensors.append((name, list(dims), kind or self.stored(name, dims)))

    def blk(self, i, stem, *dims, kind=None):
        self.add(f"blk.{i}.{stem}", *dims, kind=kind)

    def ends(self, tied=False, norm_bias=False):
        self.add("token_embd.weight", self.embd, self.vocab)
        self.add("output_norm.weight", self.embd)
        if norm_bias:
            self.add("output_norm.bias", self.embd)
        if not tied:
            self.add("output.weight", self.embd, self.vocab)
        return self

    def norms(self, i, *stems, bias=False):
        for stem in stems:
            self.blk(i, f"{stem}.weight", self.embd)
            if bias:
                self.blk(i, f"{stem}.bias", self.embd)

    def qkv(self, i, bias=False, out_bias=False, norm=None, fused=False, kv=None):
        """norm: width of the Q and K norms, "head" or "all"."""
        kv = self.kv if kv is None else kv
        q, k = self.heads * self.head, kv * self.head
        parts = [("attn_qkv", q + 2 * k)] if fused else [("attn_q", q), ("attn_k", k), ("attn_v", k)]
        for stem, wide in parts:
            self.blk(i, f"{stem}.weight", self.embd, wide)
            if bias:
                self.blk(i, f"{stem}.bias", wide)
        self.blk(i, "attn_output.weight", q, self.embd)
        if out_bias:
            self.blk(i, "attn_output.bias", self.embd)
        if norm:
            self.blk(i, "attn_q_norm.weight", self.head if norm == "head" else q)
            self.blk(i, "attn_k_norm.weight", self.head if norm == "head" else k)

    def ffn(self, i, ff, gate=True, bias=False, suffix=""):
        for stem in (["ffn_gate"] if gate else []) + ["ffn_up"]:
            self.blk(i, f"{stem}{suffix}.weight", self.embd, ff)
        self.blk(i, f"ffn_down{suffix}.weight", ff, self.embd)
        if bias:
            self.blk(i, f"ffn_up{suffix}.bias", ff)
            self.blk(i, f"ffn_down{suffix}.bias", self.embd)

    def experts(self, i, n, ff, bias=False):
        self.blk(i, "ffn_gate_inp.weight", self.embd, n)
        for stem in ("ffn_gate_exps", "ffn_up_exps"):
            self.blk(i, f"{stem}.weight", self.embd, ff, n)
            if bias:
                self.blk(i, f"{stem}.bias", ff, n, kind="F32")
        self.blk(i, "ffn_down_exps.weight", ff, self.embd, n)
        if bias:
            self.blk(i, "ffn_down_exps.bias", self.embd, n, kind="F32")
            self.blk(i, "ffn_gate_inp.bias", n)


def llama(mix, layers, embd, ff, heads, kv, vocab, head=None, tied=False, freqs=False, experts=0, used=0,
          arch="llama", norm=None, bias=False, ctx=131072, extra=None):
    """Llama, Mistral, Mixtral, Qwen, Granite, and who else is built like them."""
    m = Model(arch, mix, layers, embd, vocab, ctx).attention(heads, kv, head)
    m.set(feed_forward_length=ff, **(extra or {}))
    if experts:
        m.set(expert_count=experts, expert_used_count=used)
    m.ends(tied)
    if freqs:
        m.add("rope_freqs.weight", m.head // 2)
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm")
        m.qkv(i, bias=bias, norm=norm)
        m.experts(i, experts, ff) if experts else m.ffn(i, ff)
    return m


def qwen_moe(mix, arch, layers, embd, ff, heads, kv, vocab, n, used, shared=0, head=None):
    m = Model(arch, mix, layers, embd, vocab).attention(heads, kv, head)
    m.set(expert_count=n, expert_used_count=used, expert_feed_forward_length=ff, feed_forward_length=ff)
    if shared:
        m.set(expert_shared_feed_forward_length=shared)
    m.ends()
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm")
        m.qkv(i, bias=arch == "qwen2moe", norm="head" if arch == "qwen3moe" else None)
        m.experts(i, n, ff)
        if shared:
            m.blk(i, "ffn_gate_inp_shexp.weight", embd)
            m.ffn(i, shared, suffix="_shexp")
    return m


def gemma(mix, arch, layers, embd, ff, heads, kv, head, window, vocab=256000, ctx=8192):
    m = Model(arch, mix, layers, embd, vocab, ctx).attention(heads, kv, head)
    m.set(feed_forward_length=ff, attention__sliding_window=window)
    if arch == "gemma2":
        m.set(attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
    m.ends(tied=True)
    for i in range(layers):
        m.norms(i, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        m.qkv(i, norm="head" if arch == "gemma3" else None)
        m.ffn(i, ff)
    return m


def phi2(mix):
    m = Model("phi2", mix, 32, 2560, 51200, 2048).attention(32, layer_norm=True, eps=1e-5)
    m.set(feed_forward_length=10240, rope__dimension_count=32)
    m.ends(norm_bias=True)
    m.add("output.bias", m.vocab)
    for i in range(32):
        m.norms(i, "attn_norm", bias=True)
        m.qkv(i, bias=True, out_bias=True, fused=True)
        m.ffn(i, 10240, gate=False, bias=True)
    return m


def phi3(mix, layers, embd, ff, heads, kv, vocab, ctx, window=0, long=False):
    m = Model("phi3", mix, layers, embd, vocab, ctx).attention(heads, kv, eps=1e-5)
    m.set(feed_forward_length=ff, rope__scaling__original_context_length=4096)
    m.set(attention__sliding_window=window)
    m.ends()
    if long:
        m.add("rope_factors_long.weight", m.head // 2)
        m.add("rope_factors_short.weight", m.head // 2)
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm")
        m.qkv(i, fused=True)
        m.blk(i, "ffn_up.weight", embd, 2 * ff)
        m.blk(i, "ffn_down.weight", ff, embd)
    return m


def deepseek2(mix, layers, embd, ff, heads, vocab, n, used, expert_ff, shared, dense=1, q_rank=0, rank=512,
              rope=64, nope=128, value=128, scoring=None, extra=0):
    m = Model("deepseek2", mix, layers + extra, embd, vocab, 163840)
    m.set(attention__head_count=heads, attention__head_count_kv=1, attention__kv_lora_rank=rank,
          attention__key_length=rank + rope, attention__value_length=rank,
          attention__key_length_mla=nope + rope, attention__value_length_mla=value,
          rope__dimension_count=rope, attention__layer_norm_rms_epsilon=1e-6, feed_forward_length=ff,
          leading_dense_block_count=dense, expert_count=n, expert_used_count=used,
          expert_feed_forward_length=expert_ff, expert_shared_count=shared, expert_weights_scale=1.0,
          expert_weights_norm=scoring is not None)
    if q_rank:
        m.set(attention__q_lora_rank=q_rank)
    if scoring:
        m.set(expert_gating_func=scoring, expert_group_count=8, expert_group_used_count=4)
    m.ends()
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm")
        if q_rank:
            m.blk(i, "attn_q_a_norm.weight", q_rank)
            m.blk(i, "attn_q_a.weight", embd, q_rank)
            m.blk(i, "attn_q_b.weight", q_rank, heads * (nope + rope))
        else:
            m.blk(i, "attn_q.weight", embd, heads * (nope + rope))
        m.blk(i, "attn_kv_a_norm.weight", rank)
        m.blk(i, "attn_kv_a_mqa.weight", embd, rank + rope)
        m.blk(i, "attn_k_b.weight", nope, rank, heads)
        m.blk(i, "attn_v_b.weight", rank, value, heads)
        m.blk(i, "attn_output.weight", heads * value, embd)
        if i < dense:
            m.ffn(i, ff)
            continue
        m.experts(i, n, expert_ff)
        if scoring:
            m.blk(i, "exp_probs_b.bias", n)
        m.ffn(i, expert_ff * shared, suffix="_shexp")
    return m


def gpt_oss(mix, layers, n):
    m = Model("gpt-oss", mix, layers, 2880, 201088).attention(64, 8, 64, eps=1e-5)
    m.set(feed_forward_length=2880, expert_feed_forward_length=2880, expert_count=n, expert_used_count=4,
          attention__sliding_window=128, rope__scaling__original_context_length=4096)
    m.ends()
    for i in range(layers):
        m.norms(i, "attn_norm", "post_attention_norm")
        m.qkv(i, bias=True, out_bias=True)
        m.blk(i, "attn_sinks.weight", 64)
        m.experts(i, n, 2880, bias=True)
    return m


def granite(mix, layers, embd, ff, heads, kv, vocab=49155, experts=0, used=0, arch="granite"):
    return llama(mix, layers, embd, ff, heads, kv, vocab, tied=True, arch=arch, experts=experts, used=used,
                 extra={"attention__scale": 0.0078125, "embedding_scale": 12.0, "residual_scale": 0.22,
                        "logit_scale": 16.0})


def mamba2_layer(m, i, inner, state, groups, heads, conv=4):
    wide = inner + 2 * groups * state
    m.blk(i, "ssm_in.weight", m.embd, 2 * inner + 2 * groups * state + heads)
    m.blk(i, "ssm_conv1d.weight", conv, wide)
    m.blk(i, "ssm_conv1d.bias", wide)
    m.blk(i, "ssm_dt.bias", heads)
    m.blk(i, "ssm_a", 1, heads, kind="F32")
    m.blk(i, "ssm_d", 1, heads, kind="F32")
    m.blk(i, "ssm_norm.weight", inner // groups, groups, kind="F32")
    m.blk(i, "ssm_out.weight", inner, m.embd)


def granite_hybrid(mix, layers, embd, heads, kv, attn, inner, ssm_heads, ff, n=0, used=0, expert_ff=0,
                   vocab=100352):
    m = Model("granitehybrid", mix, layers, embd, vocab).attention(heads, kv)
    m.set(attention__head_count_kv=[kv if i in attn else 0 for i in range(layers)], feed_forward_length=ff,
          ssm__conv_kernel=4, ssm__inner_size=inner, ssm__state_size=128, ssm__time_step_rank=ssm_heads,
          ssm__group_count=1, attention__scale=0.0078125, embedding_scale=12.0, residual_scale=0.22,
          logit_scale=16.0, rope__scaling__finetuned=False)
    if n:
        m.set(expert_count=n, expert_used_count=used, expert_shared_feed_forward_length=ff,
              feed_forward_length=expert_ff)
    m.ends(tied=True)
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm")
        if i in attn:
            m.qkv(i, kv=kv)
        else:
            mamba2_layer(m, i, inner, 128, 1, ssm_heads)
        if n:
            m.experts(i, n, expert_ff)
            m.ffn(i, ff, suffix="_shexp")
        else:
            m.ffn(i, ff)
    return m


def falcon_h1(mix, layers, embd, ff, heads, kv, head, inner, state, ssm_heads, vocab, groups=1):
    m = Model("falcon-h1", mix, layers, embd, vocab, 262144).attention(heads, kv, head)
    m.set(feed_forward_length=ff, ssm__conv_kernel=4, ssm__inner_size=inner, ssm__state_size=state,
          ssm__time_step_rank=ssm_heads, ssm__group_count=groups)
    m.ends()
    for i in range(layers):
        m.norms(i, "attn_norm")
        m.blk(i, "ffn_norm", embd)  # without .weight
        m.qkv(i)
        mamba2_layer(m, i, inner, state, groups, ssm_heads)
        m.ffn(i, ff)
    return m


def mamba(mix, layers, embd, vocab=50280):
    inner, rank = 2 * embd, -(-embd // 16)
    m = Model("mamba", mix, layers, embd, vocab, 1048576)
    m.set(feed_forward_length=0, attention__head_count=0, ssm__conv_kernel=4, ssm__inner_size=inner,
          ssm__state_size=16, ssm__time_step_rank=rank, attention__layer_norm_rms_epsilon=1e-5)
    m.ends(tied=True)
    for i in range(layers):
        m.norms(i, "attn_norm")
        m.blk(i, "ssm_in.weight", embd, 2 * inner)
        m.blk(i, "ssm_conv1d.weight", 4, inner)
        m.blk(i, "ssm_conv1d.bias", inner)
        m.blk(i, "ssm_x.weight", inner, rank + 32)
        m.blk(i, "ssm_dt.weight", rank, inner)
        m.blk(i, "ssm_dt.bias", inner)
        m.blk(i, "ssm_a", 16, inner, kind="F32")
        m.blk(i, "ssm_d", inner)
        m.blk(i, "ssm_out.weight", inner, embd)
    return m


def mamba2(mix, layers, embd, inner, heads, groups, state=128, vocab=32768):
    m = Model("mamba2", mix, layers, embd, vocab, 1048576)
    m.set(feed_forward_length=0, attention__head_count=0, ssm__conv_kernel=4, ssm__inner_size=inner,
          ssm__state_size=state, ssm__time_step_rank=heads, ssm__group_count=groups,
          attention__layer_norm_rms_epsilon=1e-5)
    m.ends()
    for i in range(layers):
        m.norms(i, "attn_norm")
        mamba2_layer(m, i, inner, state, groups, heads)
    return m


def rwkv6(mix, layers, embd, ff, vocab=65536):
    m = Model("rwkv6", mix, layers, embd, vocab, 1048576)
    extra, decay = (32, 64) if embd < 4096 else (64, 128)
    m.set(feed_forward_length=ff, attention__head_count=0, attention__layer_norm_epsilon=1e-5,
          wkv__head_size=64, time_mix_extra_dim=extra, time_decay_extra_dim=decay, rescale_every_n_layers=6)
    m.ends(norm_bias=True)
    m.add("token_embd_norm.weight", embd)
    m.add("token_embd_norm.bias", embd)
    for i in range(layers):
        m.norms(i, "attn_norm", "attn_norm_2", bias=True)
        m.blk(i, "time_mix_w1.weight", embd, extra * 5)
        m.blk(i, "time_mix_w2.weight", extra, embd, 5)
        m.blk(i, "time_mix_lerp_x.weight", embd, 1, 1, kind="F32")
        m.blk(i, "time_mix_lerp_fused.weight", embd, 1, 1, 5, kind="F32")
        m.blk(i, "time_mix_first.weight", 64, embd // 64, kind="F32")
        m.blk(i, "time_mix_decay.weight", embd)
        m.blk(i, "time_mix_decay_w1.weight", embd, decay)
        m.blk(i, "time_mix_decay_w2.weight", decay, embd)
        for stem in ("key", "value", "receptance", "gate", "output"):
            m.blk(i, f"time_mix_{stem}.weight", embd, embd)
        m.blk(i, "time_mix_ln.weight", embd)
        m.blk(i, "time_mix_ln.bias", embd)
        m.blk(i, "channel_mix_lerp_k.weight", embd, 1, 1, kind="F32")
        m.blk(i, "channel_mix_lerp_r.weight", embd, 1, 1, kind="F32")
        m.blk(i, "channel_mix_key.weight", embd, ff)
        m.blk(i, "channel_mix_value.weight", ff, embd)
        m.blk(i, "channel_mix_receptance.weight", embd, embd)
    return m


def rwkv7(mix, layers, embd, ff, vocab=65536):
    m = Model("rwkv7", mix, layers, embd, vocab, 1048576)
    ranks = {"decay": 64, "iclr": 64, "value_residual_mix": 32, "gate": 128}
    m.set(feed_forward_length=ff, attention__head_count=0, attention__layer_norm_epsilon=1e-5,
          wkv__head_size=64, attention__decay_lora_rank=64, attention__iclr_lora_rank=64,
          attention__value_residual_mix_lora_rank=32, attention__gate_lora_rank=128)
    m.ends(norm_bias=True)
    m.add("token_embd_norm.weight", embd)
    m.add("token_embd_norm.bias", embd)
    for i in range(layers):
        m.norms(i, "attn_norm", "attn_norm_2", bias=True)
        m.blk(i, "time_mix_w0.weight", embd)
        m.blk(i, "time_mix_w1.weight", embd, ranks["decay"])
        m.blk(i, "time_mix_w2.weight", ranks["decay"], embd)
        m.blk(i, "time_mix_a0.weight", embd)
        m.blk(i, "time_mix_a1.weight", embd, ranks["iclr"])
        m.blk(i, "time_mix_a2.weight", ranks["iclr"], embd)
        rank = ranks["value_residual_mix"] if i else ranks["iclr"]
        m.blk(i, "time_mix_v0.weight", embd)
        m.blk(i, "time_mix_v1.weight", embd, rank)
        m.blk(i, "time_mix_v2.weight", rank, embd)
        m.blk(i, "time_mix_g1.weight", embd, ranks["gate"])
        m.blk(i, "time_mix_g2.weight", ranks["gate"], embd)
        m.blk(i, "time_mix_lerp_fused.weight", embd, 1, 1, 6, kind="F32")
        for stem in ("k_k", "k_a"):
            m.blk(i, f"time_mix_{stem}.weight", embd)
        m.blk(i, "time_mix_r_k.weight", embd)
        for stem in ("key", "value", "receptance", "output"):
            m.blk(i, f"time_mix_{stem}.weight", embd, embd)
        m.blk(i, "time_mix_ln.weight", embd)
        m.blk(i, "time_mix_ln.bias", embd)
        m.blk(i, "channel_mix_lerp_k.weight", embd, 1, 1, kind="F32")
        m.blk(i, "channel_mix_key.weight", embd, ff)
        m.blk(i, "channel_mix_value.weight", ff, embd)
    return m


def olmoe(mix):
    return llama(mix, 16, 2048, 1024, 16, 16, 50304, arch="olmoe", experts=64, used=8, norm="all", ctx=4096)


def olmo2(mix, layers, embd, ff, heads, kv=None, vocab=100352, ctx=4096, window=0):
    m = Model("olmo2", mix, layers, embd, vocab, ctx).attention(heads, kv)
    m.set(feed_forward_length=ff)
    if window:
        m.set(attention__sliding_window=window)
    m.ends()
    for i in range(layers):
        m.qkv(i, norm="all")
        m.norms(i, "post_attention_norm", "post_ffw_norm")
        m.ffn(i, ff)
    return m


def command_r(mix, arch, layers, embd, ff, heads, kv, vocab=256000, window=0, norm=False):
    m = Model(arch, mix, layers, embd, vocab).attention(heads, kv, layer_norm=True, eps=1e-5)
    m.set(feed_forward_length=ff, logit_scale=0.0625)
    if window:
        m.set(attention__sliding_window=window)
    m.ends(tied=True)
    for i in range(layers):
        m.norms(i, "attn_norm")
        m.qkv(i)
        if norm:
            m.blk(i, "attn_q_norm.weight", m.head, heads, kind="F32")
            m.blk(i, "attn_k_norm.weight", m.head, kv, kind="F32")
        m.ffn(i, ff)
    return m


def starcoder2(mix, layers, embd, ff, heads, kv, vocab=49152):
    m = Model("starcoder2", mix, layers, embd, vocab, 16384).attention(heads, kv, layer_norm=True, eps=1e-5)
    m.set(feed_forward_length=ff)
    m.ends(tied=True, norm_bias=True)
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm", bias=True)
        m.qkv(i, bias=True, out_bias=True)
        m.ffn(i, ff, gate=False, bias=True)
    return m


def stablelm(mix, layers, embd, ff, heads, kv, vocab=100352):
    m = Model("stablelm", mix, layers, embd, vocab, 4096).attention(heads, kv, layer_norm=True, eps=1e-5)
    m.set(feed_forward_length=ff, rope__dimension_count=m.head // 4, use_parallel_residual=False)
    m.ends(norm_bias=True)
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm", bias=True)
        m.qkv(i, bias=True)
        m.ffn(i, ff)
    return m


def glm4(mix, layers, embd, ff, heads, kv, vocab=151552):
    m = Model("glm4", mix, layers, embd, vocab, 32768).attention(heads, kv, 128)
    m.set(feed_forward_length=ff, rope__dimension_count=64)
    m.ends()
    for i in range(layers):
        m.norms(i, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        m.qkv(i)
        m.blk(i, "ffn_up.weight", embd, 2 * ff)
        m.blk(i, "ffn_down.weight", ff, embd)
    return m


def lfm2(mix, layers, embd, ff, heads, kv, attn, vocab=65536):
    m = Model("lfm2", mix, layers, embd, vocab, 128000).attention(heads, kv)
    m.set(attention__head_count_kv=[kv if i in attn else 0 for i in range(layers)], feed_forward_length=ff,
          shortconv__l_cache=3)
    m.ends(tied=True)
    m.tensors = [(n.replace("output_norm", "token_embd_norm"), d, k) for n, d, k in m.tensors]
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm")
        m.ffn(i, ff)
        if i in attn:
            m.qkv(i, norm="head", kv=kv)
        else:
            m.blk(i, "shortconv.conv.weight", 3, embd, kind="F32")
            m.blk(i, "shortconv.in_proj.weight", embd, 3 * embd)
            m.blk(i, "shortconv.out_proj.weight", embd, embd)
    return m


def nemotron_h(mix, pattern, embd, ff, heads, kv, head, inner, state, ssm_heads, groups, vocab=131072):
    """pattern: M for a recurrent layer, * for attention, - for a feed-forward one."""
    n = len(pattern)
    m = Model("nemotron_h", mix, n, embd, vocab).attention(heads, kv, head, eps=1e-5)
    m.set(attention__head_count_kv=[kv if c == "*" else 0 for c in pattern],
          feed_forward_length=[ff if c == "-" else 0 for c in pattern],
          ssm__conv_kernel=4, ssm__inner_size=inner, ssm__state_size=state, ssm__time_step_rank=ssm_heads,
          ssm__group_count=groups)
    m.set(attention__layer_norm_epsilon=1e-5)  # its norms are RMS all the same
    m.ends()
    for i, c in enumerate(pattern):
        m.norms(i, "attn_norm")
        if c == "M":
            mamba2_layer(m, i, inner, state, groups, ssm_heads)
        elif c == "*":
            m.qkv(i, kv=kv)
        else:
            m.ffn(i, ff, gate=False)
    return m


def glm4_moe(mix, layers, embd, ff, heads, kv, vocab, n, used, expert_ff, norm=True):
    """With a prediction layer behind the others, which an engine does not load unasked."""
    m = Model("glm4moe", mix, layers + 1, embd, vocab).attention(heads, kv, 128)
    m.set(feed_forward_length=ff, rope__dimension_count=64, expert_count=n, expert_used_count=used,
          expert_feed_forward_length=expert_ff, expert_shared_count=1, leading_dense_block_count=1,
          expert_gating_func=2, expert_weights_scale=1.0, expert_weights_norm=True, nextn_predict_layers=1)
    m.ends()
    for i in range(layers + 1):
        m.norms(i, "attn_norm", "post_attention_norm")
        m.qkv(i, bias=True, norm="head" if norm else None)
        if i == 0:
            m.ffn(i, ff)
            continue
        m.experts(i, n, expert_ff)
        m.blk(i, "exp_probs_b.bias", n)
        m.ffn(i, expert_ff, suffix="_shexp")
        if i == layers:
            m.blk(i, "nextn.eh_proj.weight", 2 * embd, embd)
            m.norms(i, "nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm")
    return m


def qwen3_next(mix, arch, layers, embd, heads, kv, head, vocab, n=0, used=0, ff=0, shared=0, inner=4096,
               state=128, groups=16, time=32):
    """Every fourth layer attends (with a gate), the others keep a state by the delta rule."""
    m = Model(arch, mix, layers, embd, vocab, 262144).attention(heads, kv, head)
    m.set(feed_forward_length=ff, rope__dimension_count=head // 4, ssm__conv_kernel=4, ssm__inner_size=inner,
          ssm__state_size=state, ssm__group_count=groups, ssm__time_step_rank=time)
    if arch.startswith("qwen35"):
        m.set(rope__dimension_sections=[11, 11, 10, 0], full_attention_interval=4)
    if n:
        m.set(expert_count=n, expert_used_count=used, expert_feed_forward_length=ff,
              expert_shared_feed_forward_length=shared)
    m.ends()
    keys = 2 * groups * state
    for i in range(layers):
        m.norms(i, "attn_norm", "post_attention_norm")
        if i % 4 == 3:
            m.blk(i, "attn_q.weight", embd, 2 * heads * head)
            m.blk(i, "attn_k.weight", embd, kv * head)
            m.blk(i, "attn_v.weight", embd, kv * head)
            m.blk(i, "attn_output.weight", heads * head, embd)
            m.blk(i, "attn_q_norm.weight", head)
            m.blk(i, "attn_k_norm.weight", head)
        else:
            m.blk(i, "attn_qkv.weight", embd, keys + inner)
            m.blk(i, "attn_gate.weight", embd, inner)
            m.blk(i, "ssm_conv1d.weight", 4, keys + inner)
            m.blk(i, "ssm_dt.bias", time)
            m.blk(i, "ssm_a", time, kind="F32")
            if arch == "qwen3next":
                m.blk(i, "ssm_ba.weight", embd, 2 * time)
            else:
                m.blk(i, "ssm_beta.weight", embd, time)
                m.blk(i, "ssm_alpha.weight", embd, time)
            m.blk(i, "ssm_norm.weight", inner // time)
            m.blk(i, "ssm_out.weight", inner, embd)
        if n:
            m.experts(i, n, ff)
            m.blk(i, "ffn_gate_inp_shexp.weight", embd)
            m.ffn(i, shared, suffix="_shexp")
        else:
            m.ffn(i, ff)
    return m


def gemma1(mix, layers, embd, ff, heads, kv, head=256):
    m = Model("gemma", mix, layers, embd, 256000, 8192).attention(heads, kv, head)
    m.set(feed_forward_length=ff)
    m.ends(tied=True)
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm")
        m.qkv(i)
        m.ffn(i, ff)
    return m


def falcon(mix, layers, embd, heads, kv, vocab=65024):
    m = Model("falcon", mix, layers, embd, vocab, 2048).attention(heads, kv, layer_norm=True, eps=1e-5)
    m.set(feed_forward_length=4 * embd)
    m.ends(norm_bias=True)
    for i in range(layers):
        m.norms(i, "attn_norm", bias=True)
        m.qkv(i, fused=True)
        m.ffn(i, 4 * embd, gate=False)
    return m


def gpt_neox(mix, layers, embd, heads, vocab=50432):
    m = Model("gptneox", mix, layers, embd, vocab, 2048).attention(heads, layer_norm=True, eps=1e-5)
    m.set(feed_forward_length=4 * embd, rope__dimension_count=m.head // 4, use_parallel_residual=True)
    m.ends(norm_bias=True)
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm", bias=True)
        m.qkv(i, bias=True, out_bias=True, fused=True)
        m.ffn(i, 4 * embd, gate=False, bias=True)
    return m


def exaone4(mix, layers, embd, ff, heads, kv, vocab=102400, window=4096):
    m = Model("exaone4", mix, layers, embd, vocab).attention(heads, kv)
    m.set(feed_forward_length=ff)
    if window:
        m.set(attention__sliding_window=window)
    m.ends()
    for i in range(layers):
        m.qkv(i, norm="head")
        m.norms(i, "post_attention_norm", "post_ffw_norm")
        m.ffn(i, ff)
    return m


def seed_oss(mix, layers, embd, ff, heads, kv, vocab=155136):
    m = Model("seed_oss", mix, layers, embd, vocab, 524288).attention(heads, kv, 128)
    m.set(feed_forward_length=ff)
    m.ends()
    for i in range(layers):
        m.norms(i, "attn_norm", "post_attention_norm")
        m.qkv(i, bias=True)
        m.ffn(i, ff)
    return m


def ernie_moe(mix, layers, embd, ff, heads, kv, vocab, n, used, expert_ff, shared):
    m = Model("ernie4_5-moe", mix, layers, embd, vocab).attention(heads, kv, 128)
    m.set(feed_forward_length=ff, expert_count=n, expert_used_count=used,
          expert_feed_forward_length=expert_ff, expert_shared_count=2,
          expert_shared_feed_forward_length=shared, interleave_moe_layer_step=1,
          leading_dense_block_count=1)
    m.ends()
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm")
        m.qkv(i)
        if i == 0:
            m.ffn(i, ff)
            continue
        m.experts(i, n, expert_ff)
        m.blk(i, "exp_probs_b.bias", n)
        m.ffn(i, shared, suffix="_shexp")
    return m


def hunyuan_moe(mix, layers, embd, ff, heads, kv, vocab, n, used):
    m = Model("hunyuan-moe", mix, layers, embd, vocab).attention(heads, kv, 128)
    m.set(feed_forward_length=ff, expert_count=n, expert_used_count=used,
          expert_shared_feed_forward_length=ff, expert_feed_forward_length=ff)
    m.ends(tied=True)
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm")
        m.qkv(i, norm="head")
        m.experts(i, n, ff)
        m.ffn(i, ff, suffix="_shexp")
    return m


def llama4(mix, layers, embd, ff, heads, kv, vocab, n, used, expert_ff, step=1):
    m = Model("llama4", mix, layers, embd, vocab, 10485760).attention(heads, kv)
    m.set(feed_forward_length=ff, expert_count=n, expert_used_count=used,
          expert_feed_forward_length=expert_ff, interleave_moe_layer_step=step)
    m.ends()
    for i in range(layers):
        m.norms(i, "attn_norm", "ffn_norm")
        m.qkv(i)
        if (i + 1) % step:
            m.ffn(i, ff)
            continue
        m.experts(i, n, expert_ff)
        m.ffn(i, expert_ff, suffix="_shexp")
    return m
