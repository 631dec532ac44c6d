// Requests to this server: the key, errors in its words, and streams.

import { keep, recall } from "./storage.js";

let key = recall("key");

export const hasKey = () => key !== "";

/** Send this key from now on. */
export function setKey(text, staysInBrowser) {
  key = text;
  keep("key", staysInBrowser ? text : "");
}

/** A refusal or failure, in words for the user. */
export class ApiError extends Error {
  /**
   * @param status of HTTP; 0 where there was no answer.
   * @param param the field at fault, as the server names it.
   * @param retryAfterS when the same request may be taken.
   */
  constructor(message, { status = 0, param = null, retryAfterS = null } = {}) {
    super(message);
    Object.assign(this, { status, param, retryAfterS });
  }
}

/** The answer to a GET, or to a POST of a JSON text. Throws ApiError, or what `signal` was aborted with. */
export async function request(path, { body, signal } = {}) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal, cache: "no-store" });
  } catch (error) {
    signal?.throwIfAborted();
    throw new ApiError("The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const { status } = response;
  const seconds = Number.parseInt(response.headers.get("Retry-After"), 10);
  const retryAfterS = Number.isNaN(seconds) ? null : seconds;
  let error;
  try {
    ({ error } = await response.json());
  } catch {
    // no JSON: a proxy's page, for example
  }
  const message = error?.message ?? `The server answered with HTTP ${status}.`;
  return new ApiError(message, { status, param: error?.param ?? null, retryAfterS });
}

/** The JSON objects of a stream. Throws ApiError where it breaks off before its end. */
export async function* events(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch {
      signal?.throwIfAborted();
      piece = { done: true };
    }
    if (piece.done) throw new ApiError("The connection was lost before the answer was complete.");
    const messages = (rest + piece.value).split("\n\n");
    rest = messages.pop();
    for (const message of messages) {
      if (!message.startsWith("data:")) continue;
      const data = message.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.message || "The server failed.", { status: event.error.code });
      yield event;
    }
  }
}
