"""Embeddings by an Ollama: `POST /api/embed` (https://docs.ollama.com/api/embed)."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from sparkd import DeviceError

from .config import TextEmbeddingConfig
from .policy import Floats, Made

ANSWER_MOST = 32 << 20
DIMENSIONS_MOST = 8192


class OllamaModel:
    """A model that an Ollama serves."""

    def __init__(self, config: TextEmbeddingConfig) -> None:
        """Ask it for one vector. Raises DeviceError if it does not answer, or has no such model."""
        self._config = config
        dimensions = self.run(["dimensions"]).shape[1]
        self._made = Made(
            model=f"ollama/{config.ollama_model}/{dimensions}",
            dimensions=dimensions,
            max_characters=8192,
            backend="ollama",
        )

    @property
    def made(self) -> Made:
        """What it is."""
        return self._made

    def run(self, texts: Sequence[str]) -> Floats:
        """Return one row a text. Raises DeviceError."""
        answer = self._ask({"model": self._config.ollama_model, "input": list(texts)})
        try:
            rows = np.array(answer["embeddings"], dtype=np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise DeviceError(f"{self._config.ollama_url} answered with no embeddings: {error}") from error
        good = rows.ndim == 2 and len(rows) == len(texts) and 0 < rows.shape[1] <= DIMENSIONS_MOST  # noqa: PLR2004 - rows
        if not good or not np.isfinite(rows).all():
            raise DeviceError(f"{self._config.ollama_url} answered with {rows.shape} for {len(texts)} texts")
        return rows

    def _ask(self, question: dict[str, Any]) -> Any:
        parts = urlsplit(self._config.ollama_url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self._config.timeout_s)
        try:
            path = f"{parts.path.rstrip('/')}/api/embed"
            connection.request("POST", path, json.dumps(question), {"Content-Type": "application/json"})
            with closing(connection.getresponse()) as response:
                content = response.read(ANSWER_MOST)
        except (OSError, http.client.HTTPException) as error:
            remedy = "start it, or look at ollama_url"
            raise DeviceError(f"{self._config.ollama_url} does not answer: {error}", remedy=remedy) from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            remedy = f"ollama pull {self._config.ollama_model}" if response.status == http.client.NOT_FOUND else ""
            said = content[:200].decode("utf-8", "replace")
            raise DeviceError(f"{self._config.ollama_url} answered {response.status}: {said}", remedy=remedy)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DeviceError(f"{self._config.ollama_url} answered with what is no JSON: {error}") from error
