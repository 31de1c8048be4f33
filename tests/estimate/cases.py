# SPDX-License-Identifier: Apache-2.0
"""The models of the comparison, and under which settings each is compared."""
import shapes as s

# name: (how it is made, its arguments). The formula was made with these.
TRAIN = {
    "llama-2-7b-q4_k": (s.llama, ("Q4_K", 32, 4096, 11008, 32, 32, 32000), {"ctx": 4096}),
    "llama-2-13b-q8_0": (s.llama, ("Q8_0", 40, 5120, 13824, 40, 40, 32000), {"ctx": 4096}),
    "llama-3-8b-q4_k": (s.llama, ("Q4_K", 32, 4096, 14336, 32, 8, 128256), {"freqs": True}),
    "llama-3.1-70b-q4_k": (s.llama, ("Q4_K", 80, 8192, 28672, 64, 8, 128256), {"freqs": True}),
    "llama-3.2-1b-f16": (s.llama, ("F16", 16, 2048, 8192, 32, 8, 128256), {"tied": True, "freqs": True}),
    "mistral-7b-q6_k": (s.llama, ("Q6_K", 32, 4096, 14336, 32, 8, 32768), {}),
    "mistral-nemo-12b-q4_k": (s.llama, ("Q4_K", 40, 5120, 14336, 32, 8, 131072), {"head": 128}),
    "mixtral-8x7b-q4_k": (s.llama, ("Q4_K", 32, 4096, 14336, 32, 8, 32000), {"experts": 8, "used": 2}),
    "qwen2-0.5b-f16": (s.llama, ("F16", 24, 896, 4864, 14, 2, 151936), {"arch": "qwen2", "bias": True,
                                                                        "tied": True}),
    "qwen2.5-7b-q4_k": (s.llama, ("Q4_K", 28, 3584, 18944, 28, 4, 152064), {"arch": "qwen2", "bias": True}),
    "qwen3-0.6b-q8_0": (s.llama, ("Q8_0", 28, 1024, 3072, 16, 8, 151936), {"arch": "qwen3", "head": 128,
                                                                           "norm": "head", "tied": True}),
    "qwen3-8b-q4_k": (s.llama, ("Q4_K", 36, 4096, 12288, 32, 8, 151936), {"arch": "qwen3", "head": 128,
                                                                          "norm": "head"}),
    "qwen2-57b-a14b-q4_k": (s.qwen_moe, ("Q4_K", "qwen2moe", 28, 3584, 2560, 28, 4, 151936, 64, 8),
                            {"shared": 20480}),
    "qwen3-30b-a3b-q4_k": (s.qwen_moe, ("Q4_K", "qwen3moe", 48, 2048, 768, 32, 4, 151936, 128, 8),
                           {"head": 128}),
    "gemma-2-2b-q8_0": (s.gemma, ("Q8_0", "gemma2", 26, 2304, 9216, 8, 4, 256, 4096), {}),
    "gemma-2-9b-q4_k": (s.gemma, ("Q4_K", "gemma2", 42, 3584, 14336, 16, 8, 256, 4096), {}),
    "gemma-3-4b-q4_k": (s.gemma, ("Q4_K", "gemma3", 34, 2560, 10240, 8, 4, 256, 1024, 262208, 131072), {}),
    "gemma-3-27b-q6_k": (s.gemma, ("Q6_K", "gemma3", 62, 5376, 21504, 32, 16, 128, 1024, 262208, 131072), {}),
    "phi-2-q8_0": (s.phi2, ("Q8_0",), {}),
    "phi-3-mini-q4_k": (s.phi3, ("Q4_K", 32, 3072, 8192, 32, 32, 32064, 131072), {"long": True}),
    "phi-4-q4_k": (s.phi3, ("Q4_K", 40, 5120, 17920, 40, 10, 100352, 16384), {}),
    "deepseek-v2-lite-q4_k": (s.deepseek2, ("Q4_K", 27, 2048, 10944, 16, 102400, 64, 6, 1408, 2), {}),
    "deepseek-v3-q4_k": (s.deepseek2, ("Q4_K", 61, 7168, 18432, 128, 129280, 256, 8, 2048, 1),
                         {"dense": 3, "q_rank": 1536, "scoring": 2}),
    "gpt-oss-20b-mxfp4": (s.gpt_oss, ("MXFP4", 24, 32), {}),
    "gpt-oss-120b-mxfp4": (s.gpt_oss, ("MXFP4", 36, 128), {}),
    "granite-3.1-8b-q4_k": (s.granite, ("Q4_K", 40, 4096, 12800, 32, 8), {}),
    "granite-3.1-3b-a800m-q8_0": (s.granite, ("Q8_0", 32, 1536, 512, 24, 8),
                                  {"experts": 40, "used": 8, "arch": "granitemoe"}),
    "granite-4.0-h-tiny-q4_k": (s.granite_hybrid, ("Q4_K", 40, 1536, 12, 4, {5, 15, 25, 35}, 3072, 48, 1024),
                                {"n": 64, "used": 6, "expert_ff": 512}),
    "falcon-h1-7b-q4_k": (s.falcon_h1, ("Q4_K", 44, 3072, 12288, 12, 2, 128, 3072, 256, 24, 130049), {}),
    "mamba-2.8b-f16": (s.mamba, ("F16", 64, 2560), {}),
    "mamba2-codestral-7b-q8_0": (s.mamba2, ("Q8_0", 64, 4096, 8192, 128, 8), {}),
    "rwkv6-7b-q4_k": (s.rwkv6, ("Q4_K", 32, 4096, 14336), {}),
    "rwkv7-1.5b-f16": (s.rwkv7, ("F16", 24, 2048, 8192), {}),
    "olmoe-7b-a1b-q4_k": (s.olmoe, ("Q4_K",), {}),
    "olmo-2-7b-q4_k": (s.olmo2, ("Q4_K", 32, 4096, 11008, 32), {}),
    "command-r-35b-q4_k": (s.command_r, ("Q4_K", "command-r", 40, 8192, 22528, 64, 64), {}),
    "command-r7b-q8_0": (s.command_r, ("Q8_0", "cohere2", 32, 4096, 14336, 32, 8), {"window": 4096}),
    "starcoder2-7b-q8_0": (s.starcoder2, ("Q8_0", 32, 4608, 18432, 36, 4), {}),
    "stablelm-1.6b-q8_0": (s.stablelm, ("Q8_0", 24, 2048, 5632, 32, 32), {}),
    "glm-4-9b-q4_k": (s.glm4, ("Q4_K", 40, 4096, 13696, 32, 2), {}),
    "lfm2-1.2b-q8_0": (s.lfm2, ("Q8_0", 16, 2048, 8192, 32, 8, {2, 5, 8, 10, 12, 14}), {}),
}

# These were measured once the formula was done, and nothing was changed for them.
FRESH = {}

# context of all slots, slots, type of K and V, physical batch, flash attention
SETTINGS = [
    (2048, 1, "f16", 512, "on"),
    (8192, 1, "f16", 512, "off"),
    (16384, 4, "q8_0", 512, "on"),
    (32768, 8, "f16", 2048, "on"),
    (32768, 2, "f16", 2048, "off"),
    (131072, 1, "q8_0", 512, "on"),
]


def build(name):
    make, args, more = (TRAIN.get(name) or FRESH[name])
    return make(*args, **more)
