"""The service: the engines, `speech` on the bus, the Wyoming server, the numbers."""

from __future__ import annotations

from functools import partial

import anyio
from anyio.abc import TaskStatus

from sparkd import Context, Privacy, Speech, Troubles
from sparkd_plugins.wyoming_wire.server import Limits, Server, serve_at

from .analytics import Analyst
from .config import VoiceServicesConfig
from .speaking import Espeak, Piper, Speaking
from .speech import Meters, SpeechCalls, Voices, WyomingOffer
from .whisper import Whisper


async def run(ctx: Context[VoiceServicesConfig], *, task_status: TaskStatus[None]) -> None:
    """Serve until cancelled. An engine that is missing is told, and the others go on."""
    config = ctx.config
    health = Troubles(ctx)
    hearing = Whisper(config) if config.stt == "faster-whisper" else None
    piper = Piper(config, ctx.state_dir / "piper") if "piper" in config.tts else None
    espeak = Espeak(config) if "espeak-ng" in config.tts else None
    engines: dict[str, Speaking | None] = {"piper": piper, "espeak-ng": espeak}
    speaking = [engine for name in dict.fromkeys(config.tts) if (engine := engines[name])]
    for each in (hearing, *speaking):
        if each is not None:
            health.set(each.engine, each.missing())
    analyst = Analyst(ctx, ctx.metrics) if config.analytics else None
    meters = Meters(ctx.metrics)
    voices = Voices(config, hearing=hearing, speaking=speaking, health=health, meters=meters, analyst=analyst)
    async with anyio.create_task_group() as group:
        for pool in ([hearing.pool] if hearing else []) + (list(piper.pools.values()) if piper else []):
            await group.start(pool.run)
        if analyst is not None:
            group.start_soon(analyst.run)
        await ctx.serve(Speech, SpeechCalls(voices, config))
        if config.wyoming_port:
            server = wyoming_server(ctx, voices)
            tell = partial(health.set, "wyoming")
            await group.start(partial(serve_at, server, config.wyoming_host, config.wyoming_port, tell=tell))
        task_status.started()


def wyoming_server(ctx: Context[VoiceServicesConfig], voices: Voices) -> Server:
    """Return the Wyoming server of *voices*."""
    config = ctx.config
    limits = Limits(
        connections=config.wyoming_connections, audio_s=config.max_audio_s, text_chars=config.max_text_chars
    )
    return Server(WyomingOffer(voices, Privacy.parse(config.privacy)), limits, ctx.log)
