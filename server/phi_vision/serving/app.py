"""The HTTP surface that vLLM lacks: all our routes and what is put around vLLM's own."""

from __future__ import annotations

from argparse import Namespace

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import State
from vllm.engine.protocol import EngineClient

from phi_vision.config import GuardSettings
from phi_vision.errors import RequestError
from phi_vision.plugin_names import ENDPOINT_PLUGIN
from phi_vision.serving import connections
from phi_vision.serving.grammars import structured_outputs
from phi_vision.serving.lifecycle import Lifecycle, default_max_requests
from phi_vision.serving.middleware import origins, rope_header
from phi_vision.serving.middleware.access import KeyForAllWork
from phi_vision.serving.middleware.body import BodyLimits
from phi_vision.serving.middleware.fields import FieldRules
from phi_vision.serving.middleware.request_limits import RequestLimits, error_response
from phi_vision.serving.middleware.text_bound import TokenBound
from phi_vision.serving.private_folder import record_shared_memory
from phi_vision.serving.routes import chat, health, plan
from phi_vision.serving.vllm_compat import error_messages
from phi_vision.spec import PHI_3_5_VISION


class TaskEndpoints:
    """vLLM's `EndpointPlugin` protocol: attach the routes, then make what they need."""

    name = ENDPOINT_PLUGIN
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add our routes; vLLM puts them in the place of its own of the same path."""
        app.include_router(chat.router)
        chat.describe_request(app)
        app.include_router(plan.router)
        app.include_router(health.router)
        app.add_middleware(rope_header.RopeHeader)
        app.add_middleware(structured_outputs.GrammarRefusals)
        app.add_middleware(RequestLimits)
        if keys := app.state.args.api_key:
            app.add_middleware(KeyForAllWork, tokens=keys)  # around the limits: strangers get no further
        guard, args = GuardSettings.from_environment(), app.state.args
        hosts = origins.allowed_hosts(guard.allowed_hosts, args.host, keyed=bool(keys))
        app.add_middleware(origins.OriginGuard, hosts=hosts, origins=args.allowed_origins)
        app.state.phi_vision_max_connections = connections.connection_cap(guard.max_connections)
        app.state.phi_vision_client_timeout_s = guard.client_timeout_s
        connections.install()
        app.add_exception_handler(RequestError, _render)
        error_messages.install()
        self._app = app

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Build the chat service once vLLM's own is there."""
        if engine_client is None or state.openai_serving_chat is None:
            raise RuntimeError("the task routes need an engine that serves chat completions")
        state.phi_vision = service = chat.ChatService(state.openai_serving_chat, args)
        structured_outputs.guard(engine_client)
        _end_at_stop_tokens(engine_client)
        state.phi_vision_rope_per_request = engine_client.model_config.hf_config.longrope_per_request
        if state.phi_vision_rope_per_request:
            rope_header.note_modes(engine_client)
        config = engine_client.vllm_config
        vocabulary = state.openai_serving_chat.renderer.get_tokenizer().get_vocab()
        max_model_len = config.model_config.max_model_len
        state.phi_vision_body_limits = BodyLimits(TokenBound(vocabulary), max_model_len)
        state.phi_vision_field_rules = FieldRules(self._app, config, service.served_names)
        max_requests = GuardSettings.from_environment().max_requests
        if max_requests is None:
            max_requests = default_max_requests(config, service.tokens_per_request)
        max_requests = min(max_requests, connections.requests_cap(state.phi_vision_max_connections))
        state.phi_vision_lifecycle = Lifecycle(engine_client, state, max_requests, config.shutdown_timeout)
        plan.report(state, config)
        record_shared_memory()


def _end_at_stop_tokens(engine_client: EngineClient) -> None:
    """Have every answer end where the model ends it, on all routes and with `ignore_eos` obeyed.

    Symptom: plain answers go on after `<|end|>`. Cause: vLLM takes the end of an answer from the
    tokenizer (`<|endoftext|>`) and from a generation_config.json, which a checkpoint need not have.
    Can go: when vLLM takes such tokens from a flag.
    """
    ids = engine_client.renderer.get_tokenizer().convert_tokens_to_ids(list(PHI_3_5_VISION.stop_tokens))
    fields = engine_client.input_processor.generation_config_fields
    given = fields.get("eos_token_id") or []
    fields["eos_token_id"] = [*ids, *([given] if isinstance(given, int) else given)]


async def _render(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)  # registered for this class alone
    return error_response(error)
