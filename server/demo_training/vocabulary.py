"""A Llama-style tokenizer: one token a character for what is read, one a word for what is asked."""

from __future__ import annotations

import json
import re

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

# Phi-3's special tokens, in its order. The roles swallow the white space behind them.
_SPECIAL = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<|image|>")
_ROLES = ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")


def build(sentences: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that knows printable characters, bytes, and the words of `sentences`.

    No token has two capitals or digits in it, so printed text is read a character at a time.
    """
    pieces = ["<unk>", "<s>", "</s>"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["▁"] + [chr(code) for code in range(0x21, 0x7F)]
    merges = _merges(sorted(set(re.findall(r"[A-Za-z]?[a-z]+", " ".join(sentences)))))
    pieces += dict.fromkeys(left + right for left, right in merges)
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A", "<s> $A <s> $B", [("<s>", vocab["<s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False) for piece in ("<unk>", "<s>", "</s>")])
    tokenizer.add_special_tokens(
        [AddedToken(piece, normalized=False, rstrip=piece in _ROLES) for piece in _SPECIAL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=131072,
        clean_up_tokenization_spaces=False,
    )


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Merges of lower-case letters first, then what stands in front of them: a capital, a space."""
    tails = [re.sub("^[A-Z]", "", word) for word in words]
    learner = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=100_000, min_frequency=1, show_progress=False)
    learner.train_from_iterator(tails, trainer)
    learned = json.loads(learner.to_str())["model"]["merges"]
    merges = [(left, right) for left, right in learned]
    merges += [(word[0], word[1:]) for word in words if word[0].isupper()]
    merges += [("▁", word) for word in words]
    return list(dict.fromkeys(merges))
