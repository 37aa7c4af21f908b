"""What an operator may set in `[plugins.text-embedding]`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEmbeddingConfig:
    """The table `[plugins.text-embedding]`."""

    backend: Literal["onnx", "ollama"] = "onnx"
    """`onnx`: a model on this machine's processor; `ollama`: one that an Ollama serves."""
    model: Path | None = None
    """An ONNX file of a BERT with 384 or so dimensions, and `vocab.txt` beside it; without it MiniLM L6, which comes
    with the extra `embedding`."""
    threads: int = 2
    batch: int = 16
    """Texts in one run."""
    ollama_url: str = "http://127.0.0.1:11434"
    ollama_model: str = "nomic-embed-text"
    reach: Literal["node", "local", "shared"] = "node"
    """How far the Ollama is: texts of a stricter class than that are not sent there. `node` for one on this machine,
    or that you trust with everything."""
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= 64:  # noqa: PLR2004 - cores
            raise ValueError(f"threads: from 1 to 64 expected, got {self.threads}")
        if not 1 <= self.batch <= 64:  # noqa: PLR2004 - a call has as many at the most
            raise ValueError(f"batch: from 1 to 64 expected, got {self.batch}")
        if not 0 < self.timeout_s <= 600:  # noqa: PLR2004 - ten minutes
            raise ValueError(f"timeout_s: up to 600 seconds expected, got {self.timeout_s:g}")
        parts = urlsplit(self.ollama_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise ValueError(f"ollama_url: http://HOST:PORT without a user expected, got {parts.scheme[:10]!r}")
        away = parts.hostname not in ("127.0.0.1", "localhost", "::1")
        if self.backend == "ollama" and away and self.reach == "node":
            raise ValueError('reach: "local" or "shared" expected for an Ollama that is not on this machine')
