#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a tiny but valid model file (GGUF v3, architecture `llama`) that llama-server loads and serves.

    make_model.py random OUT.gguf [--ctx N] [--layers N] [--embd N] [--seed N] [--pooling N] [--arch NAME]
    make_model.py says   OUT.gguf [--ctx N] [--sentence TEXT]

random  A byte vocabulary and random weights: every printable ASCII character is one token, any other
    byte is one token too, so token counts are easy to predict. It speaks printable characters and
    never ends by itself (ask with max_tokens). It has the three fill-in-the-middle tokens, and serves
    chat, completions, infill, tokenize, embeddings (--embeddings --pooling mean) and rerank (--rerank).
    --layers and --embd make a larger and slower one, for tests that need a long prefill. --arch gemma3
    has a sliding window of WINDOW tokens in five of six layers, --arch mamba has recurrent layers alone.
says    Recites one sentence, then ends: what a newcomer sees before there is a real model.

The same arguments always give the same bytes. Needs Python 3 alone.

How `says` works. With attn_output and ffn_down all zero a layer adds nothing, so what reaches the last
norm is the embedding of the last token alone, and output.weight is a table "after this token comes that
one". Each piece of the sentence has a dimension of its own; every other token (bytes, template marks)
shares dimension 0, whose entry in the table is the first piece. So it recites from any prompt's end.

Layout of the file (little endian; dims are written fastest first):

    "GGUF" u32 version=3 u64 n_tensors u64 n_kv
    n_kv     x { string key, u32 type, value }           string = u64 length, bytes
    n_tensors x { string name, u32 n_dims, u64 dims[], u32 type, u64 offset }
    padding to 32, then the tensors, each padded to 32

    token_embd.weight  [embd, vocab]     output_norm.weight [embd]     output.weight [embd, vocab]
    blk.N.attn_norm.weight [embd]        blk.N.attn_{q,k,v,output}.weight [embd, embd]
    blk.N.ffn_norm.weight  [embd]        blk.N.ffn_{gate,up}.weight [embd, ff], ffn_down [ff, embd]

All tensors are F32. Heads are 64 wide, which every back end of llama.cpp can do.
"""
import argparse
import array
import os
import random
import struct
import sys

SENTENCE = ("Hello! This is Corral's built-in test model. It knows nothing but these few words, yet a real "
        "llama.cpp engine has just streamed them to you. For a model that can think, stop this one "
        "with Ctrl-C and type: ./run --model FILE.gguf")

CHAT_TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
         "{{ message['content'] }}<|im_end|>\n{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")

ALIGNMENT = 32
HEAD = 64
WINDOW = 128  # of --arch gemma3
CONV, STATE, RANK = 4, 16, 16  # of --arch mamba

# GGUF value types
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
# Token types of tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

SPACE = "\u2581"  # how a SentencePiece vocabulary writes a space


class Vocab:
    """Tokens in order; entries are unique, as llama.cpp demands."""

    def __init__(self):
        self.text, self.type, self.score, self.id = [], [], [], {}

    def add(self, text, kind, score=0.0):
        if text in self.id:
            raise ValueError(f"token {text!r} is there twice")
        self.id[text] = len(self.text)
        self.text.append(text)
        self.type.append(kind)
        self.score.append(score)
        return self.id[text]


def byte_vocab():
    v = Vocab()
    v.add("<unk>", UNKNOWN)
    v.add("<s>", CONTROL)
    v.add("</s>", CONTROL)
    for b in range(256):
        v.add(f"<0x{b:02X}>", BYTE)
    v.add(SPACE, NORMAL, -1.0)
    for b in range(0x21, 0x7F):
        v.add(chr(b), NORMAL, -1.0)
    for mark in ("<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"):
        v.add(mark, CONTROL)
    return v


def sentence_pieces(sentence):
    """Words with the space before them. A piece the tokenizer could build from what a prompt holds
    (two characters or fewer), or one that was there already, is joined with the next word."""
    pieces, held = [], ""
    words = sentence.split(" ")
    for i, word in enumerate(words):
        held += (SPACE if i else "") + word
        if len(held) > 2 and held not in pieces:
            pieces.append(held)
            held = ""
    if held:
        if not pieces:
            pieces.append(held + SPACE + ".")
        else:
            pieces[-1] += held
    return pieces


class Numbers:
    """Random floats in -1 ... 1, cheap enough for large tensors: windows into one fixed block."""
    BLOCK = 1 << 18

    def __init__(self, seed):
        self.rnd = random.Random(seed)
        self.block = [self.rnd.random() * 2 - 1 for _ in range(self.BLOCK)]
        self.scaled = {}

    def floats(self, n, scale):
        if scale not in self.scaled:
            self.scaled[scale] = array.array("f", [x * scale for x in self.block])
        block, out = self.scaled[scale], array.array("f")
        while len(out) < n:
            at = self.rnd.randrange(self.BLOCK // 2)
            out.extend(block[at:at + min(n - len(out), self.BLOCK // 2)])
        return out


def zeros(n):
    return array.array("f", bytes(4 * n))


def ones(n):
    return array.array("f", [1.0]) * n


def layers(shape, numbers, silent):
    """name, dims, floats of the blocks. silent: they add nothing to what passes through."""
    embd, ff = shape["embd"], shape["ff"]
    s_embd, s_ff = (3.0 / embd) ** 0.5, (3.0 / ff) ** 0.5
    for i in range(shape["layers"]):
        p = f"blk.{i}."
        yield p + "attn_norm.weight", [embd], ones(embd)
        for t in ("q", "k", "v"):
            yield p + f"attn_{t}.weight", [embd, embd], numbers.floats(embd * embd, s_embd)
        yield (p + "attn_output.weight", [embd, embd],
               zeros(embd * embd) if silent else numbers.floats(embd * embd, s_embd))
        yield p + "ffn_norm.weight", [embd], ones(embd)
        for t in ("gate", "up"):
            yield p + f"ffn_{t}.weight", [embd, ff], numbers.floats(embd * ff, s_embd)
        yield (p + "ffn_down.weight", [ff, embd],
               zeros(ff * embd) if silent else numbers.floats(ff * embd, s_ff))


def gemma3_layers(shape, numbers):
    embd = shape["embd"]
    for name, dims, floats in layers(shape, numbers, False):
        yield name, dims, floats
        prefix, found, _ = name.rpartition(".attn_output.")
        if found:
            yield prefix + ".attn_q_norm.weight", [HEAD], ones(HEAD)
            yield prefix + ".attn_k_norm.weight", [HEAD], ones(HEAD)
            yield prefix + ".post_attention_norm.weight", [embd], ones(embd)
            yield prefix + ".post_ffw_norm.weight", [embd], ones(embd)


def mamba_layers(shape, numbers):
    embd = shape["embd"]
    inner, scale = 2 * embd, (3.0 / embd) ** 0.5
    for i in range(shape["layers"]):
        p = f"blk.{i}."
        yield p + "attn_norm.weight", [embd], ones(embd)
        yield p + "ssm_in.weight", [embd, 2 * inner], numbers.floats(embd * 2 * inner, scale)
        yield p + "ssm_conv1d.weight", [CONV, inner], numbers.floats(CONV * inner, 0.5)
        yield p + "ssm_conv1d.bias", [inner], zeros(inner)
        yield p + "ssm_x.weight", [inner, RANK + 2 * STATE], numbers.floats(inner * (RANK + 2 * STATE), scale)
        yield p + "ssm_dt.weight", [RANK, inner], numbers.floats(RANK * inner, scale)
        yield p + "ssm_dt.bias", [inner], zeros(inner)
        yield p + "ssm_a", [STATE, inner], array.array("f", [-1.0]) * (STATE * inner)
        yield p + "ssm_d", [inner], ones(inner)
        yield p + "ssm_out.weight", [inner, embd], numbers.floats(inner * embd, scale)


def arch_keys(arch, shape):
    if arch == "gemma3":
        yield "attention.sliding_window", U32, WINDOW
        yield "attention.key_length", U32, HEAD
        yield "attention.value_length", U32, HEAD
    if arch == "mamba":
        yield "ssm.conv_kernel", U32, CONV
        yield "ssm.inner_size", U32, 2 * shape["embd"]
        yield "ssm.state_size", U32, STATE
        yield "ssm.time_step_rank", U32, RANK


def random_tables(vocab, shape, numbers):
    """token_embd and output. Dimension 0 is the same in every embedding, so that a negative weight
    there keeps a token from ever being chosen: all but printable characters."""
    embd, n = shape["embd"], len(vocab.text)
    table = numbers.floats(embd * n, 2.0)
    out = numbers.floats(embd * n, 0.7)
    for t in range(n):
        table[t * embd] = 3.0
        out[t * embd] = 0.0 if vocab.type[t] == NORMAL else -30.0
    return table, out


def says_tables(vocab, shape, pieces):
    embd, n = shape["embd"], len(vocab.text)
    table, out = zeros(embd * n), zeros(embd * n)
    ids = [vocab.id[p] for p in pieces]
    for t in range(n):
        table[t * embd] = 1.0
    for dim, t in enumerate(ids, start=1):
        table[t * embd] = 0.0
        table[t * embd + dim] = 1.0
    for dim, t in enumerate(ids + [vocab.id["</s>"]]):
        out[t * embd + dim] = 16.0
    return table, out


def gguf_string(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def gguf_value(kind, v):
    if kind == STRING:
        return gguf_string(v)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], v)


def gguf_kv(key, kind, v, of=None):
    head = gguf_string(key) + struct.pack("<I", kind)
    if kind == ARRAY:
        return head + struct.pack("<IQ", of, len(v)) + b"".join(gguf_value(of, x) for x in v)
    return head + gguf_value(kind, v)


def metadata(name, vocab, shape):
    a, t = shape["arch"] + ".", "tokenizer.ggml."
    yield gguf_kv("general.architecture", STRING, shape["arch"])
    yield gguf_kv("general.type", STRING, "model")
    yield gguf_kv("general.name", STRING, name)
    yield gguf_kv("general.file_type", U32, 0)
    yield gguf_kv("general.quantization_version", U32, 2)
    yield gguf_kv(a + "context_length", U32, shape["ctx"])
    yield gguf_kv(a + "embedding_length", U32, shape["embd"])
    yield gguf_kv(a + "block_count", U32, shape["layers"])
    yield gguf_kv(a + "feed_forward_length", U32, shape["ff"])
    yield gguf_kv(a + "attention.head_count", U32, shape["embd"] // HEAD)
    yield gguf_kv(a + "attention.head_count_kv", U32, shape["embd"] // HEAD)
    yield gguf_kv(a + "attention.layer_norm_rms_epsilon", F32, 1e-5)
    yield gguf_kv(a + "rope.dimension_count", U32, HEAD)
    yield gguf_kv(a + "rope.freq_base", F32, 10000.0)
    yield gguf_kv(a + "vocab_size", U32, len(vocab.text))
    for key, kind, value in arch_keys(shape["arch"], shape):
        yield gguf_kv(a + key, kind, value)
    if shape.get("pooling"):
        yield gguf_kv(a + "pooling_type", U32, shape["pooling"])
    yield gguf_kv(t + "model", STRING, "llama")
    yield gguf_kv(t + "pre", STRING, "default")
    yield gguf_kv(t + "tokens", ARRAY, vocab.text, STRING)
    yield gguf_kv(t + "scores", ARRAY, vocab.score, F32)
    yield gguf_kv(t + "token_type", ARRAY, vocab.type, I32)
    for key, token in (("bos", "<s>"), ("eos", "</s>"), ("unknown", "<unk>"), ("eot", "<|im_end|>"),
               ("seperator", "</s>"),  # spelt as the format spells it
               ("fim_pre", "<|fim_prefix|>"), ("fim_suf", "<|fim_suffix|>"),
               ("fim_mid", "<|fim_middle|>")):
        yield gguf_kv(f"{t}{key}_token_id", U32, vocab.id[token])
    yield gguf_kv(t + "add_bos_token", BOOL, True)
    yield gguf_kv(t + "add_eos_token", BOOL, False)
    yield gguf_kv(t + "add_space_prefix", BOOL, False)
    yield gguf_kv("tokenizer.chat_template", STRING, CHAT_TEMPLATE)


def write_gguf(path, kvs, tensors):
    kvs, infos, offset = list(kvs), [], 0
    for name, dims, floats in tensors:
        infos.append(gguf_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, offset))
        offset += -(-4 * len(floats) // ALIGNMENT) * ALIGNMENT
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(kvs)) + b"".join(kvs) + b"".join(infos)
    tmp = f"{path}.{os.getpid()}.tmp"  # renamed when whole: two test runs may write the same file
    with open(tmp, "wb") as f:
        f.write(head + bytes(-len(head) % ALIGNMENT))
        for _, _, floats in tensors:
            if sys.byteorder == "big":
                floats.byteswap()
            f.write(floats.tobytes())
            f.write(bytes(-4 * len(floats) % ALIGNMENT))
    os.replace(tmp, path)


def make(args):
    vocab, numbers = byte_vocab(), Numbers(args.seed)
    shape = {"ctx": args.ctx, "layers": args.layers, "embd": args.embd, "ff": 2 * args.embd,
             "pooling": args.pooling, "arch": args.arch}
    if args.kind == "says":
        pieces = sentence_pieces(args.sentence)
        for p in pieces:
            vocab.add(p, NORMAL, -2.0)
        shape["embd"] = max(args.embd, -(-(len(pieces) + 1) // HEAD) * HEAD)
        shape["ff"] = 2 * shape["embd"]
        table, out = says_tables(vocab, shape, pieces)
    else:
        table, out = random_tables(vocab, shape, numbers)
    embd, n = shape["embd"], len(vocab.text)
    tensors = [("token_embd.weight", [embd, n], table)]
    if args.arch == "llama":
        tensors += layers(shape, numbers, silent=args.kind == "says")
    else:
        tensors += {"gemma3": gemma3_layers, "mamba": mamba_layers}[args.arch](shape, numbers)
    tensors += [("output_norm.weight", [embd], ones(embd)), ("output.weight", [embd, n], out)]
    write_gguf(args.out, metadata(f"Corral test model ({args.kind})", vocab, shape), tensors)


def main():
    p = argparse.ArgumentParser(description="Writes a tiny valid GGUF that llama-server loads and serves.")
    p.add_argument("kind", choices=("random", "says"))
    p.add_argument("out", metavar="OUT.gguf")
    p.add_argument("--ctx", type=int, default=8192, help="trained context (default 8192)")
    p.add_argument("--layers", type=int, default=2)
    p.add_argument("--embd", type=int, default=64, help="width, a multiple of 64 (default 64)")
    p.add_argument("--seed", type=int, default=20240229)
    p.add_argument("--pooling", type=int, default=0, choices=range(5),
                   help="say that it makes vectors: 1 mean, 2 cls, 3 last token, 4 rank "
                        "(default 0: it writes text)")
    p.add_argument("--arch", choices=("llama", "gemma3", "mamba"), default="llama",
                   help="of `random` (default llama)")
    p.add_argument("--sentence", default=SENTENCE, help="what `says` recites")
    args = p.parse_args()
    if args.embd < HEAD or args.embd % HEAD:
        p.error(f"--embd is {args.embd}; it must be a multiple of {HEAD}")
    if args.kind == "says" and args.arch != "llama":
        p.error("--arch is for `random`")
    if args.ctx < 1 or args.layers < 1:
        p.error("--ctx and --layers must be at least 1")
    if not args.sentence.strip() or "\0" in args.sentence:
        p.error("--sentence must hold at least one word and no NUL")
    make(args)


if __name__ == "__main__":
    main()
