// What is asked, as the body of a request: the same for sending and for showing as code.

/**
 * What the user asks.
 * @typedef {object} Asked
 * @property task an entry of `/v1/tasks`.
 * @property {object[]} files of `pictures.js`.
 * @property {string} text the question, or in the place of the task's prompt; may be empty.
 * @property {?object} schema that the answer follows.
 * @property {string} pages of documents, the first being 1; empty: all.
 * @property {?number} maxTokens of the answer.
 * @property {?number} numCrops of each picture at most.
 * @property {boolean} byPage whether `/v1/ocr` reads it page by page.
 */

/** `{path, body}` of each request that the question takes. `urlOf` gives the data URL of a file. */
export function requestsOf(asked, urlOf) {
  if (!asked.byPage) return [{ path: "v1/chat/completions", body: chatBody(asked, urlOf) }];
  return asked.files.map((file) => ({ path: "v1/ocr", body: ocrBody(asked, file, urlOf) }));
}

function chatBody({ task, files, text, schema, pages, maxTokens, numCrops }, urlOf) {
  const content = files.map((file) => {
    if (!file.isDocument) return { type: "image_url", image_url: { url: urlOf(file) } };
    return { type: "file", file: { file_data: urlOf(file), ...(pages && { pages }) } };
  });
  if (text) content.push({ type: "text", text });
  const named = { name: "answer", schema, strict: true };
  return {
    model: task.models[0],
    messages: [{ role: "user", content }],
    ...(maxTokens !== null && { max_tokens: maxTokens }),
    ...(schema && { response_format: { type: "json_schema", json_schema: named } }),
    ...(numCrops && { mm_processor_kwargs: { num_crops: numCrops } }),
  };
}

function ocrBody({ task, pages }, file, urlOf) {
  return {
    model: task.models[0],
    document: { type: "document_url", document_url: urlOf(file) },
    ...(pages && file.isDocument && { pages: pages.replace(/\d+/g, (page) => page - 1) }), // the first is 0 there
    confidence_scores_granularity: "word",
  };
}

/** The field of the page that a refused request is about: `{field, file}`, `file` being a place in `files`. */
export function faultOf(param, { files }) {
  const path = param ?? "";
  const part = /^messages\[\d+\]\.content\[(\d+)\](.*)/.exec(path);
  if (part && part[2].endsWith(".pages")) return { field: "pages" };
  if (part) return Number(part[1]) < files.length ? { field: "files", file: Number(part[1]) } : { field: "text" };
  const fields = {
    document: "files",
    document_annotation_format: "schema",
    max_completion_tokens: "max-tokens",
    max_tokens: "max-tokens",
    mm_processor_kwargs: "crops",
    pages: "pages",
    response_format: "schema",
    structured_outputs: "schema",
  };
  return { field: fields[path.split(/[.[]/)[0]] ?? "form" };
}
