/* SPDX-License-Identifier: Apache-2.0 */
#include "gguf/gguf_int.h"

static const struct gguf_tensor_type types[] = {
	[0] = { "F32", 1, 4 },
	[1] = { "F16", 1, 2 },
	[2] = { "Q4_0", 32, 18 },
	[3] = { "Q4_1", 32, 20 },
	[6] = { "Q5_0", 32, 22 },
	[7] = { "Q5_1", 32, 24 },
	[8] = { "Q8_0", 32, 34 },
	[9] = { "Q8_1", 32, 36 },
	[10] = { "Q2_K", 256, 84 },
	[11] = { "Q3_K", 256, 110 },
	[12] = { "Q4_K", 256, 144 },
	[13] = { "Q5_K", 256, 176 },
	[14] = { "Q6_K", 256, 210 },
	[15] = { "Q8_K", 256, 292 },
	[16] = { "IQ2_XXS", 256, 66 },
	[17] = { "IQ2_XS", 256, 74 },
	[18] = { "IQ3_XXS", 256, 98 },
	[19] = { "IQ1_S", 256, 50 },
	[20] = { "IQ4_NL", 32, 18 },
	[21] = { "IQ3_S", 256, 110 },
	[22] = { "IQ2_S", 256, 82 },
	[23] = { "IQ4_XS", 256, 136 },
	[24] = { "I8", 1, 1 },
	[25] = { "I16", 1, 2 },
	[26] = { "I32", 1, 4 },
	[27] = { "I64", 1, 8 },
	[28] = { "F64", 1, 8 },
	[29] = { "IQ1_M", 256, 56 },
	[30] = { "BF16", 1, 2 },
	[34] = { "TQ1_0", 256, 54 },
	[35] = { "TQ2_0", 256, 66 },
	[39] = { "MXFP4", 32, 17 },
	[40] = { "NVFP4", 64, 36 },
	[41] = { "Q1_0", 128, 18 },
	[42] = { "Q2_0", 64, 18 },
};

const struct gguf_tensor_type *gguf_tensor_type(uint32_t type)
{
	return type < ARRAY_LEN(types) && types[type].name ? &types[type] : NULL;
}

size_t gguf_value_size(enum gguf_value_type type)
{
	static const size_t sizes[GGUF_VALUE_TYPE_COUNT] = {
		[GGUF_U8] = 1,
		[GGUF_I8] = 1,
		[GGUF_U16] = 2,
		[GGUF_I16] = 2,
		[GGUF_U32] = 4,
		[GGUF_I32] = 4,
		[GGUF_F32] = 4,
		[GGUF_BOOL] = 1,
		[GGUF_U64] = 8,
		[GGUF_I64] = 8,
		[GGUF_F64] = 8,
	};
	return type < GGUF_VALUE_TYPE_COUNT ? sizes[type] : 0;
}

const char *gguf_file_type_name(int64_t file_type)
{
	static const char *const names[] = {
		[0] = "all F32",
		[1] = "F16",
		[2] = "Q4_0",
		[3] = "Q4_1",
		[7] = "Q8_0",
		[8] = "Q5_0",
		[9] = "Q5_1",
		[10] = "Q2_K - Medium",
		[11] = "Q3_K - Small",
		[12] = "Q3_K - Medium",
		[13] = "Q3_K - Large",
		[14] = "Q4_K - Small",
		[15] = "Q4_K - Medium",
		[16] = "Q5_K - Small",
		[17] = "Q5_K - Medium",
		[18] = "Q6_K",
		[19] = "IQ2_XXS",
		[20] = "IQ2_XS",
		[21] = "Q2_K - Small",
		[22] = "IQ3_XS",
		[23] = "IQ3_XXS",
		[24] = "IQ1_S",
		[25] = "IQ4_NL",
		[26] = "IQ3_S",
		[27] = "IQ3_S mix",
		[28] = "IQ2_S",
		[29] = "IQ2_M",
		[30] = "IQ4_XS",
		[31] = "IQ1_M",
		[32] = "BF16",
		[36] = "TQ1_0",
		[37] = "TQ2_0",
		[38] = "MXFP4 MoE",
		[39] = "NVFP4",
	};
	return file_type >= 0 && (size_t)file_type < ARRAY_LEN(names) ? names[file_type] : NULL;
}

const char *gguf_printable(struct view v, char out[64])
{
	size_t n = MIN(v.n, (size_t)60);
	for (size_t i = 0; i < n; i++)
		out[i] = v.p[i];
	for (size_t i = 0; i < n; i++)
		if (out[i] < 0x20 || out[i] > 0x7e)
			out[i] = '?';
	memcpy(out + n, v.n > n ? "..." : "", v.n > n ? 4 : 1);
	return out;
}
