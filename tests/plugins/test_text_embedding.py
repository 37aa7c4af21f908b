"""text-embedding: the real MiniLM, an Ollama that lies, and calls that share runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from sparkd import CallError, CallInfo, ConfigError, DeviceError, Embedded, Privacy
from sparkd.calls.current import answering
from sparkd_plugins.text_embedding.backend_ollama import OllamaModel
from sparkd_plugins.text_embedding.config import TextEmbeddingConfig
from sparkd_plugins.text_embedding.device_onnx import OnnxModel, open_onnx
from sparkd_plugins.text_embedding.policy import Floats, Made, pooled, unit
from sparkd_plugins.text_embedding.service import Embedding


@pytest.fixture(scope="module")
def model() -> OnnxModel:
    return open_onnx(TextEmbeddingConfig())


def vectors(model: OnnxModel, *texts: str) -> Floats:
    return np.stack([np.frombuffer(one, "<f4") for one in unit(model.run(texts))])


def test_what_means_the_same_is_near(model: OnnxModel) -> None:
    cat, kitten, stocks = vectors(
        model, "The cat sits on the mat", "a kitten is sitting", "The stock market fell by two per cent"
    )
    assert cat @ kitten > 0.5
    assert abs(cat @ stocks) < 0.2
    assert model.made.dimensions == 384


@pytest.mark.parametrize(
    "text", ["", " ", "\0", "😀😀", "a" * 10_000, "word " * 5000, "\ud800".encode("utf-8", "replace").decode()]
)
def test_any_text_has_a_vector_of_length_one(model: OnnxModel, text: str) -> None:
    (vector,) = vectors(model, text)
    assert np.isclose(np.linalg.norm(vector), 1, atol=1e-5)


def test_a_text_has_the_same_vector_alone_and_among_others(model: OnnxModel) -> None:
    """Padding does not count. An int8 model rounds by the largest number of a batch, so a little differs."""
    alone = vectors(model, "the boiler makes a noise")[0]
    among = vectors(model, "x", "the boiler makes a noise", "a much longer text than the one in the middle " * 5)[1]
    assert alone @ among > 0.97


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"rubbish")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ConfigError, match=r"model: .*model.onnx"):
        open_onnx(TextEmbeddingConfig(model=tmp_path / "model.onnx"))


def test_only_tokens_that_count_are_averaged() -> None:
    tokens = np.array([[[1.0, 0.0], [3.0, 2.0], [100.0, 100.0]]], dtype=np.float32)
    assert pooled(tokens, np.array([[1, 1, 0]])).tolist() == [[2.0, 1.0]]
    assert pooled(tokens, np.array([[0, 0, 0]])).tolist() == [[0.0, 0.0]]


@dataclass
class Counting:
    """A backend that counts, and fails when told."""

    runs: list[int] = field(default_factory=list)
    fails: bool = False
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def made(self) -> Made:
        return Made(model="m", dimensions=2, max_characters=10, backend="test")

    def run(self, texts: Sequence[str]) -> Floats:
        self.gate.wait(5)
        self.runs.append(len(texts))
        if self.fails:
            raise DeviceError("it is broken", remedy="mend it")
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


def asked(test: Any, counting: Counting, **config: Any) -> None:
    async def main() -> None:
        embedding = Embedding(TextEmbeddingConfig(**config), counting)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(embedding.work)
            await test(embedding)
            tasks.cancel_scope.cancel()

    anyio.run(main)


async def texts(embedding: Embedding, *given: str, privacy: Privacy = Privacy.LOCAL) -> Embedded:
    with answering(CallInfo("embed.texts", "test", "home", privacy, None, 10.0)):
        return await embedding.texts(texts=list(given))


def test_calls_share_runs_and_each_gets_its_own() -> None:
    backend = Counting()

    async def test(embedding: Embedding) -> None:
        got: dict[int, Embedded] = {}

        async def ask(number: int) -> None:
            got[number] = await texts(embedding, "x" * number, "y" * (number + 1))

        async with anyio.create_task_group() as tasks:
            for number in range(1, 21):
                tasks.start_soon(ask, number)
            await anyio.wait_all_tasks_blocked()
            backend.gate.set()
        for number, answer in got.items():
            first, second = (np.frombuffer(one, "<f4") for one in answer.vectors)
            assert np.isclose(first[0] / first[1], number)
            assert np.isclose(second[0] / second[1], number + 1)
        assert sum(backend.runs) == 40
        assert len(backend.runs) < 15
        assert max(backend.runs) <= 8

    asked(test, backend, batch=8)


def test_a_failure_is_said_with_its_remedy_and_the_next_call_works() -> None:
    backend = Counting(fails=True)
    backend.gate.set()

    async def test(embedding: Embedding) -> None:
        with pytest.raises(CallError, match="it is broken") as caught:
            await texts(embedding, "x")
        assert caught.value.data["remedy"] == "mend it"
        backend.fails = False
        assert len((await texts(embedding, "x")).vectors) == 1

    asked(test, backend)


def test_too_much_is_refused_and_who_is_gone_is_left_out() -> None:
    backend = Counting()

    async def test(embedding: Embedding) -> None:
        for wrong in ([], ["x"] * 65, ["x" * 100_001]):
            with pytest.raises(CallError, match="texts") as caught:
                await texts(embedding, *wrong)
            assert caught.value.data["field"] == "texts"
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(texts, embedding, *["x"] * 64)
            await anyio.wait_all_tasks_blocked()  # one of them is under way now
            tasks.start_soon(texts, embedding, *["x"] * 64)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(CallError, match="wait already"):
                await texts(embedding, "x")
            tasks.cancel_scope.cancel()
        backend.gate.set()
        await texts(embedding, "x")
        assert sum(backend.runs) <= 65  # the run that was under way, and this

    asked(test, backend, batch=64)


class _Ollama(BaseHTTPRequestHandler):
    answer: Any = None
    status = 200
    seen: list[Any]

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen.append(question)
        rows = [[float(len(text)), 1.0, 2.0] for text in question["input"]]
        content = json.dumps({"embeddings": rows}).encode() if self.answer is None else self.answer
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def ollama(answer: bytes | None = None, status: int = 200) -> Iterator[tuple[str, type[_Ollama]]]:
    kind = type("Ollama", (_Ollama,), {"answer": answer, "status": status, "seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", kind
        finally:
            server.shutdown()
            thread.join()


def test_an_ollama_is_asked_for_all_texts_at_once() -> None:
    with ollama() as (url, seen):
        model = OllamaModel(TextEmbeddingConfig(backend="ollama", ollama_url=url, ollama_model="m"))
        assert model.made.dimensions == 3
        assert model.run(["a", "bb"]).tolist() == [[1.0, 1.0, 2.0], [2.0, 1.0, 2.0]]
        assert seen.seen[-1] == {"model": "m", "input": ["a", "bb"]}


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (b"{}", 200, "no embeddings"),
        (b"rubbish", 200, "no JSON"),
        (b'{"embeddings": [[1, 2], [3]]}', 200, "no embeddings"),
        (b'{"embeddings": [[NaN]]}', 200, "answered with"),
        (b'{"embeddings": []}', 200, "answered with"),
        (b'{"error": "model not found"}', 404, "404"),
    ],
)
def test_an_ollama_that_answers_wrong_is_named(answer: bytes, status: int, says: str) -> None:
    with ollama(answer, status) as (url, _), pytest.raises(DeviceError, match=says) as caught:
        OllamaModel(TextEmbeddingConfig(backend="ollama", ollama_url=url))
    if status == 404:
        assert caught.value.remedy == "ollama pull nomic-embed-text"


def test_an_ollama_that_is_away_is_named() -> None:
    with pytest.raises(DeviceError, match="does not answer"):
        OllamaModel(TextEmbeddingConfig(backend="ollama", ollama_url="http://127.0.0.1:9"))


def test_a_text_is_not_sent_farther_than_its_class_allows() -> None:
    backend = Counting()
    backend.gate.set()

    async def test(embedding: Embedding) -> None:
        assert (await texts(embedding, "x", privacy=Privacy.SHARED)).vectors
        for privacy in (Privacy.LOCAL, Privacy.NODE):
            with pytest.raises(CallError, match="denied"):
                await texts(embedding, "x", privacy=privacy)
        assert sum(backend.runs) == 1

    asked(test, backend, backend="ollama", ollama_url="https://far.example", reach="shared")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"backend": "ollama", "ollama_url": "http://10.0.0.1:11434"}, "reach"),
        ({"ollama_url": "http://me:secret@10.0.0.1"}, "without a user"),
        ({"ollama_url": "ftp://x"}, "ollama_url"),
        ({"threads": 0}, "threads"),
        ({"batch": 100}, "batch"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        TextEmbeddingConfig(**config)
    assert "secret" not in str(caught.value)
