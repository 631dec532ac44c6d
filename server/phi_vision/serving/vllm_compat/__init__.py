"""The boundary to vLLM: every patch of its code, one module each.

A module says what goes wrong without it (Symptom), why (Cause) and when it can be deleted (Can go). Its
`install` puts it in place.

| module | replaces or wraps | so that |
|---|---|---|
| `chat_answers` | `OpenAIServingChat.create_chat_completion` | our chat requests see their answers |
| `engine_times` | `EngineClient.generate` | each prompt's time with the engine is measured |
| `error_messages` | `sanitize_message` | long messages neither block the server nor leave it |
| `flag_parser` | `make_arg_parser` | a mistake in a flag is one line, and no flag can be shortened |
| `log_records` | the factory of log records | no picture, key or escape sequence is logged |
| `loop_guard` | `OutputProcessor.add_request`, `process_outputs` | loops end, tables of contents pass |
| `renderer` | `render_chat_async`, `process_for_engine_async` | pictures are drawn before vLLM needs them |
| `response_answers` | `responses_full_generator` | our requests for responses see how they were answered |
| `rope_modes` | `EngineClient.generate` | a response names the LongRoPE factors it was computed with |
| `sent_pictures` | the cache of pictures that were sent | a refused request takes no picture from the next |
| `server_class` | `NoSignalServer` | connections are capped |
| `server_start` | `create_server_socket`, `setup_server`, the final wait | the port and signals are ours |
| `start_cause` | the engine's log of a failed start | the launcher can say why |
| `stop_tokens` | `generation_config_fields` | answers end at `<|end|>` |
| `structured_outputs` | `EngineClient.add_request`, validation of specs | no spec stops the server |

Patches that run in the engine's process are in `model`: `cpu_layers`, `cpu_seeds`, `rope_table`,
`rope_scheduler`. Two more are middleware or state of the server: `middleware.api_key` extends vLLM's check of
the key, `lifecycle` replaces its handling of signals. Everything else uses vLLM's extension points (plugins,
the model and media connector registries) or calls its functions. `tests/contract` checks every name of vLLM's
that is used.
"""
