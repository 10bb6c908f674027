"""Tiny classifiers of random weights, made on the spot with a vocabulary of their own."""

import json
from collections.abc import Sequence
from pathlib import Path

WORDS = ["the", "a", "cat", "dog", "sleeps", "runs", "rain", "falls", "in", "harbour", "good", "very"]


def tiny_classifier(folder: Path, labels: Sequence[str], problem: str | None = None) -> Path:
    """A BERT of one layer that reads 32 tokens; always the same weights for the same labels."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    how = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(how))
    torch.manual_seed(len(labels))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        problem_type=problem,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder
