# mypy: ignore-errors
"""Writes a tiny Llama with random weights in FP8, as llm-compressor would. Run in vLLM's Python.

FP8 as compressed-tensors, one scale per output channel and dynamic scales of tokens: the one FP8
weight format that vLLM can compute on a CPU without AMX. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

FP8_MAX = 448  # of float8_e4m3fn
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "ignore": ["lm_head"],
    "quantization_status": "compressed",
    "global_compression_ratio": None,
    "kv_cache_scheme": None,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel",
                "dynamic": False,
            },
            "input_activations": {
                "num_bits": 8, "type": "float", "symmetric": True, "strategy": "token",
                "dynamic": True,
            },
            "output_activations": None,
        }
    },
}  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["the quick brown fox", "hello world of tiny models"], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = TEMPLATE
    fast.model_max_length = 16384
    fast.save_pretrained(folder)


def write_model(folder: Path) -> None:
    torch.manual_seed(0)
    # The FP8 cache's CPU kernel needs heads of a multiple of 32.
    config = LlamaConfig(
        vocab_size=1024, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        max_position_embeddings=16384, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    weights = {}
    for name, value in load_file(folder / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            weights[name] = value
            continue
        full = value.float()
        scale = full.abs().amax(dim=1, keepdim=True) / FP8_MAX
        weights[name] = (full / scale).to(torch.float8_e4m3fn)
        weights[f"{name}_scale"] = scale.to(torch.bfloat16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"quantization_config": QUANTIZATION})
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_tokenizer(target)
    write_model(target)
