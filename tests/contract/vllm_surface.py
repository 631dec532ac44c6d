"""Every name of vLLM's that phi-vision relies on: one row each, with what it must look like and why.

`test_vllm_surface` checks the rows against the installed vLLM, and that each import of `phi_vision` has one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
    """A name that must exist.

    Args:
        module: where it is imported from.
        attribute: in that module, dotted for a member of a class; "" for the module itself. A member may also
            be a field, or an attribute that a method of the class assigns.
        why: what phi-vision does with it.
        parameters: that it must take, in this order.
    """

    module: str
    attribute: str
    why: str
    parameters: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.module}.{self.attribute}".rstrip(".")


def members(module: str, owner: str, why: str, *names: str) -> list[Name]:
    """Attributes of one class that are needed for the same thing."""
    return [Name(module, f"{owner}.{name}", why) for name in names]


_CHAT = "vllm.entrypoints.openai.chat_completion.protocol"
_HANDLERS = "vllm.entrypoints.serve.exception_handling"
_ROPE = "vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope"
_PHI3V = "vllm.model_executor.models.phi3v"
_PROCESSOR = "vllm.multimodal.processing.processor"
_SCHEDULER = "vllm.v1.core.sched.scheduler"
_CONNECTOR = "vllm.multimodal.media.connector"

START = [
    Name("vllm", "ModelRegistry.register_model", "our model class", ("model_arch", "model_cls")),
    Name("vllm", "ModelRegistry.models", "refuses to start without our model class"),
    Name("vllm.plugins", "load_general_plugins", "refuses to start without our plugins"),
    Name(
        "vllm.plugins", "load_endpoint_plugins", "refuses to start without our routes", ("supported_tasks",)
    ),
    Name("vllm.entrypoints.launchers.cli_args", "make_arg_parser", "parses engine flags", ("parser",)),
    Name("vllm.utils.argparse_utils", "FlexibleArgumentParser", "parses engine flags"),
    Name("vllm.entrypoints.cli.serve", "ServeSubcommand.validate", "checks the arguments", ("args",)),
    Name("vllm.entrypoints.cli.serve", "ServeSubcommand.cmd", "serves", ("args",)),
    Name("vllm.logger", "configure_logging_from_args", "as `vllm serve` does", ("args",)),
    Name("vllm.logger", "init_logger", "a log with vLLM's handlers", ("name",)),
    Name("vllm.entrypoints.launchers", "launcher", "its names are replaced"),
    Name("vllm.entrypoints.launchers.api_server", "entry", "its names are replaced"),
    Name("vllm.entrypoints.cli", "serve", "its names are replaced"),
    Name("vllm.entrypoints.cli.serve", "setup_server", "replaced as that of `entry`", ("args", "reuse_port")),
    Name(
        "vllm.entrypoints.cli.serve",
        "wait_for_completion_or_failure",
        "wrapped: a second signal ends the wait for several API processes",
        ("api_server_manager", "engine_manager", "coordinator"),
    ),
    Name(
        "vllm.entrypoints.launchers.launcher",
        "create_server_socket",
        "replaced: gives the launcher's socket",
        ("addr", "reuse_port"),
    ),
    Name(
        "vllm.entrypoints.launchers.api_server.entry",
        "setup_server",
        "wrapped: signals stay with the launcher",
        ("args", "reuse_port"),
    ),
    Name(
        "vllm.entrypoints.launchers.launcher",
        "NoSignalServer",
        "replaced by a subclass that caps connections",
        ("config", "peer_loads"),
    ),
    Name(
        "vllm.entrypoints.launchers.launcher",
        "NoSignalServer._connect",
        "overridden: where a connection is refused",
        ("loop", "conn"),
    ),
    Name(
        "vllm.entrypoints.launchers.launcher",
        "NoSignalServer.startup",
        "overridden: where it begins to accept",
        ("sockets",),
    ),
    *members(
        "vllm.entrypoints.launchers.launcher",
        "NoSignalServer",
        "counts a refused connection as vLLM does",
        "_connecting",
        "_publish_load",
    ),
]

CONFIG = [
    Name("vllm.config", "VllmConfig", "what the engine was started with"),
    *members(
        "vllm.config",
        "VllmConfig",
        "read by routes, limits and the model",
        "cache_config",
        "ec_transfer_config",
        "kv_transfer_config",
        "model_config",
        "observability_config",
        "parallel_config",
        "quant_config",
        "scheduler_config",
        "shutdown_timeout",
        "structured_outputs_config",
        "use_v2_model_runner",
    ),
    *members("vllm.config", "ObservabilityConfig", "whether spans are exported", "otlp_traces_endpoint"),
    *members(
        "vllm.config",
        "ModelConfig",
        "read by routes and the model",
        "allowed_local_media_path",
        "allowed_media_domains",
        "get_vocab_size",
        "hf_config",
        "max_model_len",
        "multimodal_config",
    ),
    *members(
        "vllm.config",
        "CacheConfig",
        "the memory plan is compared with it",
        "block_size",
        "cache_dtype",
        "kv_cache_max_concurrency",
        "kv_cache_size_tokens",
        "num_gpu_blocks",
    ),
    *members("vllm.config", "SchedulerConfig", "the queue's limit", "async_scheduling", "max_num_seqs"),
    *members("vllm.config", "ParallelConfig", "whether /scale_elastic_ep can work", "enable_elastic_ep"),
    *members(
        "vllm.config",
        "ParallelConfig",
        "each API process has its part",
        "_api_process_count",
        "_api_process_rank",
    ),
    *members(
        "vllm.config",
        "ParallelConfig",
        "how many engines there are",
        "data_parallel_size",
        "data_parallel_size_local",
        "local_engines_only",
    ),
    *members(
        "vllm.config",
        "MultiModalConfig",
        "the limits on pictures",
        "get_limit_per_prompt",
        "media_io_kwargs",
        "mm_processor_kwargs",
    ),
    *members(
        "vllm.config",
        "StructuredOutputsConfig",
        "the one backend that is tried",
        "backend",
        "disable_any_whitespace",
    ),
]

ENGINE = [
    Name("vllm.engine.protocol", "EngineClient", "what routes ask"),
    Name(
        "vllm.engine.protocol",
        "EngineClient.generate",
        "wrapped: it is timed, and rope modes are recorded",
        ("prompt", "sampling_params", "request_id"),
    ),
    *members("vllm.engine.protocol", "EngineClient", "readiness", "errored", "is_sleeping"),
    *members(
        "vllm.engine.protocol",
        "EngineClient",
        "configuration and tokenizer",
        "input_processor",
        "model_config",
        "renderer",
        "vllm_config",
    ),
    Name(
        "vllm.v1.engine.async_llm",
        "AsyncLLM.add_request",
        "wrapped: specs are tried",
        ("request_id", "prompt", "params"),
    ),
    Name("vllm.multimodal.cache.lru", "LruKeyReplicatedSenderCache", "wrapped: pictures that got there"),
    Name(
        "vllm.multimodal.cache.lru",
        "LruKeyReplicatedSenderCache.is_cached_item",
        "wrapped: pictures that got there",
        ("mm_hash",),
    ),
    Name(
        "vllm.multimodal.cache.lru",
        "LruKeyReplicatedSenderCache.get_and_update_item",
        "wrapped: pictures that got there",
        ("mm_item", "mm_hash"),
    ),
    Name(
        "vllm.multimodal.cache.lru",
        "LruKeyReplicatedSenderCache.invalidate",
        "for a picture that did not get there",
        ("mm_hash",),
    ),
    Name("vllm.renderers.base", "BaseRenderer.mm_processor_cache", "wrapped: pictures that got there"),
    Name("vllm.v1.engine.async_llm", "AsyncLLM.engine_core", "wrapped: pictures that got there"),
    Name(
        "vllm.v1.engine.core_client",
        "AsyncMPClient.add_request_async",
        "wrapped: pictures that got there",
        ("request",),
    ),
    Name(
        "vllm.v1.engine.input_processor",
        "InputProcessor.generation_config_fields",
        "the model's stop tokens are added to its `eos_token_id`",
    ),
    Name("vllm.v1.engine.async_llm", "AsyncLLM.output_processor", "loops are found in its texts"),
    Name("vllm.v1.engine.output_processor", "OutputProcessor", "wrapped: ends loops"),
    Name(
        "vllm.v1.engine.output_processor",
        "OutputProcessor.add_request",
        "wrapped: a marked request is watched",
        ("request",),
    ),
    Name(
        "vllm.v1.engine.output_processor",
        "OutputProcessor.process_outputs",
        "wrapped: ends loops",
        ("engine_core_outputs",),
    ),
    *members(
        "vllm.v1.engine.output_processor",
        "OutputProcessor",
        "the texts of answers",
        "request_states",
    ),
    Name("vllm.v1.engine.output_processor", "OutputProcessorOutput.reqs_to_abort", "ends loops"),
    Name("vllm.v1.engine.output_processor", "OutputProcessorOutput", "in a signature"),
    *members(
        "vllm.v1.engine.output_processor",
        "RequestState",
        "the text of an answer",
        "detokenizer",
        "output_kind",
    ),
    Name("vllm.v1.engine.output_processor", "RequestState", "the text of an answer"),
    *members(
        "vllm.v1.engine.detokenizer",
        "BaseIncrementalDetokenizer",
        "the text of an answer",
        "min_tokens",
        "num_output_tokens",
        "output_text",
    ),
    Name("vllm.v1.engine.detokenizer", "BaseIncrementalDetokenizer", "the text of an answer"),
    Name("vllm.v1.engine", "EngineCoreOutput", "the last one of an answer in a loop"),
    *members(
        "vllm.v1.engine",
        "EngineCoreOutput",
        "the last one of an answer in a loop",
        "finish_reason",
        "finished",
        "new_logprobs",
        "new_sampling_mask",
        "new_token_ids",
        "request_id",
        "routed_experts",
        "stop_reason",
    ),
    Name("vllm.v1.engine", "EngineCoreRequest", "in a signature"),
    Name("vllm.v1.engine", "EngineCoreRequest.sampling_params", "whether a request is marked"),
    Name("vllm.v1.engine", "FinishReason", "how an answer in a loop ends"),
    *members("vllm.v1.engine", "FinishReason", "how an answer in a loop ends", "LENGTH", "REPETITION"),
    Name("vllm.outputs", "RequestOutput.outputs", "lengths of answers"),
    Name("vllm.outputs", "CompletionOutput.token_ids", "lengths of answers"),
    Name("vllm.sampling_params", "SamplingParams.output_kind", "whether an answer is streamed"),
    Name("vllm.sampling_params", "SamplingParams", "parameters of a request"),
    Name("vllm.sampling_params", "SamplingParams.extra_args", "marks a request whose loops end"),
    Name("vllm.sampling_params", "SamplingParams.repetition_detection", "a client's choice"),
    Name("vllm.sampling_params", "SamplingParams.structured_outputs", "the spec to try"),
    Name("vllm.sampling_params", "RequestOutputKind.DELTA", "whether an answer is streamed"),
    Name(
        "vllm.sampling_params",
        "SamplingParams._validate_structured_outputs",
        "replaced: it compiles",
    ),
]

STRUCTURED_OUTPUTS = [
    *members(
        "vllm.sampling_params",
        "StructuredOutputsParams",
        "the kinds of specs and their options",
        "_backend",
        "choice",
        "disable_additional_properties",
        "disable_any_whitespace",
        "grammar",
        "json",
        "json_object",
        "regex",
        "structural_tag",
        "whitespace_pattern",
    ),
    Name("vllm.sampling_params", "StructuredOutputsParams", "base of a tried spec"),
    Name("vllm.v1.structured_output", "backend_xgrammar", "its names are replaced"),
    Name(
        "vllm.v1.structured_output.backend_xgrammar",
        "validate_xgrammar_grammar",
        "replaced: it compiles",
        ("sampling_params",),
    ),
    Name(
        "vllm.v1.structured_output.backend_xgrammar",
        "has_xgrammar_unsupported_json_features",
        "schemas that the engine would refuse",
        ("schema",),
    ),
    Name(
        "vllm.v1.structured_output.backend_xgrammar",
        "XgrammarBackend.compile_grammar",
        "trials compile as it does",
        ("request_type", "grammar_spec"),
    ),
    Name("vllm.v1.structured_output.utils", "choice_as_grammar", "what the engine compiles", ("choice",)),
    Name("vllm.v1.structured_output.utils", "grammar_is_likely_lark", "which notation", ("grammar_str",)),
    Name(_CHAT, "ChatCompletionRequest.to_beam_search_params", "wrapped: it drops a spec"),
    Name(_CHAT, "ChatCompletionRequest.extract_structured_outputs", "whether there is a spec"),
    Name(
        "vllm.entrypoints.openai.completion.protocol",
        "CompletionRequest.to_beam_search_params",
        "wrapped: it drops a spec",
    ),
    Name(
        "vllm.entrypoints.openai.completion.protocol",
        "CompletionRequest.extract_structured_outputs",
        "whether there is a spec",
    ),
]

ROUTES = [
    *members(
        _CHAT,
        "ChatCompletionRequest",
        "fields that are read or set",
        "messages",
        "mm_processor_kwargs",
        "max_tokens",
        "temperature",
    ),
    Name(_CHAT, "ChatCompletionRequest", "the request of the chat route"),
    Name(
        _CHAT,
        "ChatCompletionRequest.to_sampling_params",
        "extended: marks a request whose loops end",
        ("max_tokens", "default_sampling_params"),
    ),
    Name(_CHAT, "ChatCompletionResponse", "how choices ended"),
    Name(_CHAT, "ChatCompletionResponse.choices", "how choices ended"),
    Name(_CHAT, "ChatCompletionLogProbsContent.bytes", "tokens of the text that is kept"),
    Name("vllm.entrypoints.openai.chat_completion.serving", "OpenAIServingChat", "its answers are shown"),
    Name(
        "vllm.entrypoints.openai.chat_completion.serving",
        "OpenAIServingChat.create_chat_completion",
        "wrapped: its answers are shown",
        ("request", "raw_request"),
    ),
    Name("vllm.entrypoints.openai.chat_completion", "api_router", "has vLLM's chat route"),
    Name("vllm.entrypoints.serve.utils.api_utils", "with_cancellation", "ends a route whose client has gone"),
    Name("vllm.entrypoints.serve.utils.api_utils", "load_aware_call", "counts a request in vLLM's load"),
    Name("vllm.entrypoints.serve.utils.api_utils", "validate_json_request", "checks a body's type"),
    Name("vllm.entrypoints.serve.engine.protocol", "ErrorResponse.error", "an answer that is none"),
    Name("vllm.exceptions", "GenerationError", "a request that the engine failed at"),
    Name("vllm.utils", "random_uuid", "an id for the requests of one document"),
    Name(
        "vllm.entrypoints.openai.chat_completion.api_router",
        "create_chat_completion",
        "vLLM's chat route answers",
        ("request", "raw_request"),
    ),
    Name(
        "vllm.entrypoints.openai.chat_completion.api_router", "router", "what vLLM's chat route checks first"
    ),
    Name(
        "vllm.renderers.base",
        "BaseRenderer.render_chat_async",
        "wrapped: once a request",
        ("conversations", "chat_params", "tok_params", "prompt_extras"),
    ),
    Name(
        "vllm.renderers.base",
        "BaseRenderer.process_for_engine_async",
        "wrapped: once a prompt, all its pictures known",
        ("prompt", "arrival_time"),
    ),
    Name("vllm.entrypoints.openai.completion.protocol", "CompletionRequest", "fields of /invocations"),
    Name("vllm.entrypoints.openai.responses.protocol", "ResponsesRequest", "finds a bad item of `input`"),
    Name(
        "vllm.entrypoints.openai.responses.protocol",
        "ResponsesRequest.input",
        "has pages in place of documents",
    ),
    Name(
        "vllm.entrypoints.openai.responses.protocol",
        "ResponsesRequest.to_sampling_params",
        "extended: marks a request whose loops end",
        ("default_max_tokens", "default_sampling_params"),
    ),
    Name(
        "vllm.entrypoints.openai.responses.protocol",
        "ResponsesRequest.build_tok_params",
        "extended: the prompt begins with one `<s>`",
        ("model_config",),
    ),
    Name(
        "vllm.entrypoints.openai.responses.serving",
        "OpenAIServingResponses.responses_full_generator",
        "wrapped: its responses are shown",
        ("request", "sampling_params", "result_generator", "context"),
    ),
    Name("vllm.entrypoints.openai.responses.serving", "OpenAIServingResponses", "its responses are shown"),
    *members(
        "vllm.entrypoints.openai.responses.protocol",
        "ResponsesResponse",
        "says how an answer ended",
        "incomplete_details",
        "output",
        "status",
    ),
    Name("vllm.entrypoints.openai.responses.protocol", "ResponsesResponse", "says how an answer ended"),
    Name("vllm.entrypoints.openai.responses.context", "SimpleContext", "how an answer ended"),
    Name("vllm.entrypoints.openai.responses.context", "SimpleContext.last_output", "how an answer ended"),
    Name("vllm.entrypoints.openai.responses.context", "HarmonyContext.finish_reason", "how an answer ended"),
    Name("vllm.entrypoints.openai.responses.context", "ParsableContext.finish_reason", "how an answer ended"),
    Name("vllm.outputs", "CompletionOutput.finish_reason", "how an answer ended"),
    Name("vllm.renderers.params", "TokenizeParams", "the prompt begins with one `<s>`"),
    Name("vllm.renderers.params", "TokenizeParams.add_special_tokens", "the prompt begins with one `<s>`"),
    Name("vllm.entrypoints.openai.responses", "api_router", "has vLLM's route of responses"),
    Name(
        "vllm.entrypoints.openai.responses.api_router",
        "create_responses",
        "vLLM's route of responses answers",
        ("request", "raw_request"),
    ),
    Name(
        "vllm.entrypoints.openai.responses.api_router",
        "router",
        "what vLLM's route of responses checks first",
    ),
    Name(
        "vllm.entrypoints.serve.utils.api_utils",
        "with_cancellation",
        "documents are not opened for a client that has gone",
        ("handler_func",),
    ),
    Name("vllm.exceptions", "VLLMValidationError", "a 400 with a field", ("message", "parameter")),
    Name(f"{_HANDLERS}.handlers.validation", "clean_loc_for_param", "names the field of an error", ("loc",)),
    Name(f"{_HANDLERS}.utils", "sanitize_message", "wrapped: long messages are cut", ("message",)),
    Name(f"{_HANDLERS}", "utils", "its `sanitize_message` is wrapped"),
    Name(
        "vllm.entrypoints.serve.middleware.authenticate",
        "AuthenticationMiddleware",
        "base of the check on all routes",
        ("app", "tokens"),
    ),
    Name(
        "vllm.entrypoints.serve.middleware.authenticate",
        "AuthenticationMiddleware.verify_token",
        "compares the key",
        ("headers",),
    ),
]

PICTURES = [
    Name(_CONNECTOR, "MEDIA_CONNECTOR_REGISTRY.register", "our connector", ("name",)),
    Name(_CONNECTOR, "MEDIA_CONNECTOR_REGISTRY", "our connector"),
    Name(
        _CONNECTOR,
        "MediaConnector",
        "base of our connector",
        ("media_io_kwargs",),
    ),
    Name(
        _CONNECTOR,
        "MediaConnector.load_from_url_async",
        "overridden: nothing is fetched here",
        ("url", "media_io", "fetch_timeout"),
    ),
    Name(
        _CONNECTOR,
        "MediaConnector.load_from_url",
        "overridden: nothing is fetched here",
        ("url", "media_io", "fetch_timeout"),
    ),
    Name(
        "vllm.multimodal.media",
        "MediaWithBytes",
        "a picture that vLLM has read",
        ("media", "original_bytes"),
    ),
    Name("vllm.multimodal.media.image", "ImageMediaIO", "tells pictures from other media"),
    Name(_PHI3V, "Phi3VDummyInputsBuilder.get_dummy_text", "overridden", ("mm_counts",)),
    Name(_PHI3V, "Phi3VDummyInputsBuilder", "base of ours"),
    Name(_PHI3V, "Phi3VMultiModalProcessor", "base of ours"),
    *members(
        _PHI3V,
        "Phi3VMultiModalProcessor",
        "overridden",
        "_apply_hf_processor_main",
        "_get_mm_fields_config",
        "_get_mm_hashes",
        "_get_prompt_updates",
        "_recompute_cached_prompt_update",
    ),
    Name(_PHI3V, "Phi3VProcessingInfo", "base of ours"),
    *members(
        _PHI3V,
        "Phi3VProcessingInfo",
        "sizes and limits of pictures",
        "ctx",
        "get_hf_config",
        "get_data_parser",
        "get_image_size_with_most_features",
        "get_tokenizer",
        "get_mm_max_tokens_per_item",
    ),
    Name("vllm.multimodal.inputs", "MultiModalFeatureSpec", "in a signature"),
    Name("vllm.multimodal.inputs", "MultiModalFieldConfig.batched", "one canvas a picture", ("modality",)),
    Name("vllm.multimodal.inputs", "MultiModalFieldConfig", "one canvas a picture"),
    Name("vllm.multimodal.inputs", "MultiModalKwargsItems", "in a signature"),
    Name("vllm.multimodal.parse", "ImageProcessorItems", "pictures of a request"),
    Name("vllm.multimodal.parse", "MultiModalDataItems", "pictures of a request"),
    Name("vllm.multimodal.parse", "MultiModalDataParser._parse_image_data", "overridden", ("data",)),
    Name("vllm.multimodal.parse", "MultiModalDataParser", "base of ours"),
    Name("vllm.multimodal.processing", "ProcessorInputs", "what a canvas is hashed by"),
    *members(
        "vllm.multimodal.processing",
        "ProcessorInputs",
        "what a canvas is hashed by",
        "mm_data_items",
    ),
    Name(_PROCESSOR, "PromptReplacement", "image tokens", ("modality", "target", "replacement")),
    Name(_PROCESSOR, "PromptUpdate", "in a signature"),
    Name(_PROCESSOR, "ResolvedPromptUpdate.item_idx", "a cached picture at another place"),
    Name(_PROCESSOR, "ResolvedPromptUpdate.target", "a cached picture at another place"),
    Name(_PROCESSOR, "ResolvedPromptUpdate", "a cached picture at another place"),
    Name(_PROCESSOR, "cached_encode", "tokens of an image tag", ("tokenizer", "text")),
]

MODEL = [
    Name(_PHI3V, "Phi3VForCausalLM", "base of our model"),
    Name(
        _PHI3V,
        "Phi3VForCausalLM.forward",
        "overridden",
        ("input_ids", "positions", "intermediate_tensors", "inputs_embeds"),
    ),
    *members(
        _PHI3V,
        "Phi3VForCausalLM",
        "overridden or called",
        "_mark_language_model",
        "_mark_tower_model",
        "embed_multimodal",
        "load_weights",
    ),
    Name("vllm.model_executor.layers.quantization", "QuantizationConfig", "in a signature"),
    Name(
        "vllm.model_executor.models.clip",
        "CLIPVisionModel",
        "the vision tower",
        ("config", "quant_config", "num_hidden_layers_override", "prefix"),
    ),
    Name("vllm.model_executor.models.interfaces", "SupportsMRoPE", "vLLM asks the model for positions"),
    Name(
        "vllm.model_executor.models.interfaces",
        "SupportsMRoPE.get_mrope_input_positions",
        "vLLM asks the model for positions",
        ("input_tokens", "mm_features"),
    ),
    Name(
        "vllm.model_executor.models.utils", "AutoWeightsLoader.load_weights", "weights", ("weights", "mapper")
    ),
    Name("vllm.model_executor.models.utils", "AutoWeightsLoader", "weights"),
    Name("vllm.model_executor.models.utils", "WeightsMapper", "weights", ("orig_to_new_prefix",)),
    Name(
        "vllm.model_executor.models.utils",
        "init_vllm_registered_model",
        "the text model",
        ("vllm_config", "prefix", "architectures"),
    ),
    Name("vllm.model_executor.models.utils", "maybe_prefix", "names of weights", ("prefix", "name")),
    Name(
        "vllm.multimodal",
        "MULTIMODAL_REGISTRY.register_processor",
        "our processor",
        ("processor", "info", "dummy_inputs"),
    ),
    Name("vllm.multimodal", "MULTIMODAL_REGISTRY", "our processor"),
    Name("vllm.model_executor.layers.layernorm", "RMSNorm", "on a CPU computed by vLLM's kernel"),
    Name("vllm.model_executor.layers.layernorm", "RMSNorm.register_oot", "our norm in its place", ("name",)),
    Name("vllm.model_executor.layers.layernorm", "RMSNorm.forward_cpu", "replaced", ("args", "kwargs")),
    *members(
        "vllm.model_executor.layers.layernorm",
        "RMSNorm",
        "arguments of the kernel",
        "variance_epsilon",
        "weight",
    ),
    Name("vllm.platforms", "current_platform.is_cpu", "a fix for CPUs alone"),
    Name("vllm.platforms", "current_platform", "a fix for CPUs alone"),
    Name("vllm.sequence", "IntermediateTensors", "in a signature"),
]

ROPE = [
    Name(_ROPE, "Phi3LongRoPEScaledRotaryEmbedding", "holds both halves of the table"),
    *members(
        _ROPE,
        "Phi3LongRoPEScaledRotaryEmbedding",
        "both halves of the table are put into it",
        "_compute_cos_sin_cache",
        "head_size",
        "long_factor",
        "long_mscale",
        "long_short_cos_sin_cache",
        "max_position_embeddings",
        "original_max_position_embeddings",
        "short_factor",
        "short_mscale",
        "use_long_rope",
    ),
    Name("vllm.v1.worker.gpu_model_runner", "GPUModelRunner", "positions when a request resumes"),
    Name(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._calc_mrope_positions",
        "wrapped: positions are asked for when a request resumes",
        ("scheduler_output",),
    ),
    *members("vllm.v1.worker.gpu_model_runner", "GPUModelRunner", "positions", "get_model", "requests"),
    *members(
        "vllm.v1.worker.gpu_input_batch",
        "CachedRequestState",
        "positions of a resumed request",
        "mm_features",
        "mrope_position_delta",
        "mrope_positions",
        "num_tokens",
    ),
    Name("vllm.v1.core.sched.output", "CachedRequestData.resumed_req_ids", "which requests resume"),
    Name("vllm.v1.core.sched.output", "SchedulerOutput.scheduled_cached_reqs", "which requests resume"),
    Name("vllm.v1.core.sched.output", "SchedulerOutput", "in a signature"),
    Name("vllm.v1.core.kv_cache_manager", "KVCacheBlocks", "in a signature"),
    Name("vllm.v1.core.sched.async_scheduler", "AsyncScheduler", "base of ours"),
    Name(_SCHEDULER, "Scheduler", "base of ours"),
    Name(_SCHEDULER, "Scheduler.add_request", "overridden: the salt of a new request", ("request",)),
    Name(_SCHEDULER, "Scheduler.schedule", "overridden: preempts what outgrows", ("throttle_prefills",)),
    Name(
        _SCHEDULER,
        "Scheduler._get_local_prefix_cache_hit",
        "overridden: the salt of a request that is let in",
        ("request",),
    ),
    Name(_SCHEDULER, "Scheduler._preempt_request", "preempts what outgrows", ("request", "timestamp")),
    *members(_SCHEDULER, "Scheduler", "preempts what outgrows", "connector", "current_step", "running"),
    Name("vllm.v1.request", "Request", "length and salt of a request"),
    *members(
        "vllm.v1.request",
        "Request",
        "length and salt of a request",
        "block_hashes",
        "cache_salt",
        "next_decode_eligible_step",
        "num_in_flight_tokens",
        "num_output_placeholders",
        "num_tokens",
        "num_tokens_with_spec",
        "spec_token_ids",
        "update_block_hashes",
    ),
    Name("vllm.v1.worker.cpu_model_runner", "CPUModelRunner", "seeds on a CPU"),
    Name(
        "vllm.v1.worker.cpu_model_runner",
        "CPUModelRunner.sample_tokens",
        "wrapped: generators of unfinished prompts",
        ("grammar_output",),
    ),
    *members(
        "vllm.v1.worker.cpu_model_runner",
        "CPUModelRunner",
        "generators of unfinished prompts",
        "discard_request_mask",
        "input_batch",
    ),
    *members(
        "vllm.v1.worker.gpu_input_batch",
        "InputBatch",
        "generators of unfinished prompts",
        "generators",
        "num_reqs",
    ),
]

NAMES = [*START, *CONFIG, *ENGINE, *STRUCTURED_OUTPUTS, *ROUTES, *PICTURES, *MODEL, *ROPE]

# Members of vLLM's parsed arguments that the launcher or the server reads or sets.
ARGUMENTS = (
    "allowed_origins",
    "api_key",
    "grpc",
    "headless",
    "host",
    "kv_transfer_config",
    "served_model_name",
    "structured_outputs_config",
    "uds",
)

# Lines of log that the launcher looks for, and the modules whose logger writes them.
LOG_MESSAGES = (
    ("vllm.v1.engine.core", "EngineCore failed to start"),
    ("vllm.v1.executor.multiproc_executor", "WorkerProc failed to start"),
)
