"""The endpoint plugin: our routes, and the middleware around all routes."""

from __future__ import annotations

import asyncio
from argparse import Namespace

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import State
from starlette.middleware import Middleware
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from phi_vision.config import ServeConfig
from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.plugin_names import ENDPOINT_PLUGIN, FRONT_END_ARGUMENT, PAGE_ARGUMENT, PLAN_ARGUMENT
from phi_vision.serving import capacity, connections, metrics, openapi, pictures, private_folder, tracing
from phi_vision.serving.batches.runs import BatchRuns
from phi_vision.serving.batches.store import BatchStore
from phi_vision.serving.chat_service import ChatService
from phi_vision.serving.documents import Documents
from phi_vision.serving.files import FileStore
from phi_vision.serving.http import error_response
from phi_vision.serving.lifecycle import Lifecycle
from phi_vision.serving.middleware.admission import AdmissionControl
from phi_vision.serving.middleware.api_key import ApiKeyMiddleware
from phi_vision.serving.middleware.body import BodyLimits
from phi_vision.serving.middleware.body_reader import BodyReader
from phi_vision.serving.middleware.fields import OCR, FieldRules
from phi_vision.serving.middleware.grammar_errors import GrammarErrors
from phi_vision.serving.middleware.origins import OriginMiddleware
from phi_vision.serving.middleware.request_counts import RequestCounts
from phi_vision.serving.middleware.rope_header import RopeHeader
from phi_vision.serving.middleware.text_bound import TokenBound
from phi_vision.serving.mistral_ocr import OCRRequest
from phi_vision.serving.origin_rule import OriginRule, allowed_hosts
from phi_vision.serving.request_count import RequestCount
from phi_vision.serving.routes import batches, chat, files, health, ocr, page, plan, responses
from phi_vision.serving.vllm_compat import (
    chat_answers,
    engine_times,
    error_messages,
    loop_guard,
    renderer,
    response_answers,
    rope_modes,
    sent_pictures,
    server_class,
    stop_tokens,
    structured_outputs,
)
from phi_vision.tasks import presets


def middleware(args: Namespace, limits: Limits) -> list[Middleware]:
    """What a request passes on its way to a route, in this order: the cheap checks come first."""
    keys = args.api_key or []
    hosts = allowed_hosts(limits.allowed_hosts, args.host, keyed=bool(keys))
    return [
        # By its head alone: a web page of another origin learns nothing, not even whether a key is needed.
        Middleware(OriginMiddleware, rule=OriginRule(hosts, tuple(args.allowed_origins))),
        # Clients without a key take no place in the queue.
        *([Middleware(ApiKeyMiddleware, tokens=keys)] if keys else []),
        # A full server refuses before it reads a body.
        Middleware(AdmissionControl),
        Middleware(BodyReader, max_bytes=limits.max_body_bytes, timeout_s=limits.client_timeout_s),
        # These two change the answers of the routes.
        Middleware(GrammarErrors),
        Middleware(RopeHeader),
    ]


class TaskEndpoints:
    """vLLM's `EndpointPlugin` protocol: attach the routes, then create what they need."""

    name = ENDPOINT_PLUGIN
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add our routes, which vLLM puts in place of its own of the same path, and the middleware."""
        args = app.state.args
        limits = connections.fit_to_descriptors(Limits.from_args(args))
        app.state.phi_vision_limits = limits
        for route in (chat, responses, ocr, files, batches, plan, health):
            app.include_router(route.router)
        if getattr(args, PAGE_ARGUMENT, not ServeConfig.no_page):
            app.include_router(page.router)
        task = {"type": "string", "enum": list(presets.PRESETS)}
        openapi.define(app, ChatCompletionRequest, {"task": task})
        openapi.define(app, ResponsesRequest, {"task": task})
        openapi.define(app, OCRRequest)
        openapi.define(app, batches.BatchRequest)
        for each in reversed(middleware(args, limits)):  # the one added last is the first to run
            app.add_middleware(each.cls, *each.args, **each.kwargs)
        server_class.install()
        app.add_exception_handler(RequestError, _render)
        error_messages.install()
        self._app = app

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Create the chat service and what the middleware needs, once vLLM's own services exist."""
        if engine_client is None or state.openai_serving_chat is None:
            raise RuntimeError("the task routes need an engine that serves chat completions")
        # Around all middleware, vLLM's too, which has put it together by now: none can be added.
        built = self._app.middleware_stack or self._app.build_middleware_stack()
        if tracing.start(engine_client.vllm_config.observability_config.otlp_traces_endpoint):
            from phi_vision.serving.middleware.request_spans import RequestSpans

            built = RequestSpans(built)
        self._app.middleware_stack = RequestCounts(built)
        state.phi_vision = service = ChatService(engine_client.model_config, args)
        limits: Limits = state.phi_vision_limits
        model_config = engine_client.model_config
        config = engine_client.vllm_config
        # The API processes share what all of them may use, but connections and files in memory.
        processes = config.parallel_config._api_process_count
        rank = config.parallel_config._api_process_rank
        state.phi_vision_files = store = FileStore(limits)
        workers = limits.media_workers_each(processes)
        state.phi_vision_pictures = opened = pictures.build(limits, model_config, store, workers)
        state.phi_vision_documents = Documents(opened, pictures.prompt_limits(limits, model_config))
        files.keep_clean(state, store)
        renderer.install(engine_client.renderer, opened)
        sent_pictures.install(engine_client)
        trials = structured_outputs.install(engine_client)
        stop_tokens.install(engine_client)
        loop_guard.install(engine_client)
        engine_times.install(engine_client)
        chat_answers.install(state.openai_serving_chat)
        response_answers.install(state.openai_serving_responses)
        state.phi_vision_rope_per_request = engine_client.model_config.hf_config.longrope_per_request
        if state.phi_vision_rope_per_request:
            rope_modes.install(engine_client)
        vocabulary = state.openai_serving_chat.renderer.get_tokenizer().get_vocab()
        max_model_len = config.model_config.max_model_len
        state.phi_vision_body_limits = BodyLimits(TokenBound(vocabulary), max_model_len)
        state.phi_vision_field_rules = FieldRules(self._app, config, service.served_names)
        running = capacity.max_running(config, service.tokens_per_request)
        connected = processes * (limits.max_connections - 1)
        max_requests = limits.max_num_queued_reqs or min(2 * running, connected)
        metrics.LIMIT.set(max_requests)
        pages = asyncio.Semaphore(max(1, running // processes))
        state.phi_vision_ocr = ocr.OcrService(opened, service.crop_policy, trials, limits.max_pages, pages)
        batch_places = max(1, int(limits.batch_share * running) // processes)
        requests = RequestCount(private_folder.of_this_server(), processes, rank)
        state.phi_vision_lifecycle = lifecycle = Lifecycle(
            engine_client,
            state,
            max_requests,
            config.shutdown_timeout,
            batch_places,
            requests,
            stop_notice_s=limits.stop_notice_s,
        )
        state.phi_vision_batches = batch_store = BatchStore(store, limits)
        state.phi_vision_batch_runs = runs = BatchRuns(
            self._app,
            batch_store,
            store,
            lifecycle,
            limits,
            keys=args.api_key or (),
            line_sizes={OCR: ocr.PAGES_AT_ONCE},
        )
        lifecycle.at_stop.append(runs.stop)
        state.phi_vision_batches_going = asyncio.create_task(runs.keep_going())
        plan.report(
            state, config, getattr(args, PLAN_ARGUMENT, None), getattr(args, FRONT_END_ARGUMENT, None)
        )
        private_folder.record_shared_memory()


async def _render(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)  # registered for this class alone
    return error_response(error)
