// The same request as code, for files on the user's own disk.

import { requestsOf } from "./requests.js";

const HOLE = /"@file(\d+)"/g; // where the data URL of a file stands

/** Code for curl, Python and JavaScript. `keyed`: whether the server asks for a key. */
export function snippetsOf(asked, address, keyed) {
  const { files } = asked;
  const requests = requestsOf(asked, (file) => `@file${files.indexOf(file)}`);
  const base = new URL("v1", address).href;
  const makers = { curl, python, javascript };
  return Object.fromEntries(Object.entries(makers).map(([name, make]) => [name, make(requests, files, base, keyed)]));
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl(requests, files, base, keyed) {
  const calls = requests.map(({ path, body }) => {
    // In a document of the shell that is not quoted, these three would mean something.
    const text = JSON.stringify(body, null, 2).replace(/[\\$`]/g, "\\$&")
      .replace(HOLE, (_, place) => {
        const file = files[place];
        return `"data:${file.type};base64,$(base64 < ${quoted(file.name)} | tr -d '\\n')"`;
      });
    const key = keyed ? "  -H \"Authorization: Bearer $OPENAI_API_KEY\" \\\n" : "";
    return `curl -s ${base}/${path.slice(3)} \\\n${key}  -H 'Content-Type: application/json' -d @- <<JSON\n${text}\nJSON`;
  });
  return calls.join("\n");
}

function python(requests, files, base, keyed) {
  const key = keyed ? "" : ', api_key="none"';
  const lines = [
    "import base64",
    ...(requests[0].path === "v1/ocr" ? ["", "import httpx"] : []),
    "from openai import OpenAI",
    "",
    "",
    "def data_url(path, kind):",
    '    with open(path, "rb") as file:',
    '        return f"data:{kind};base64," + base64.b64encode(file.read()).decode()',
    "",
    "",
    `client = OpenAI(base_url="${base}"${key})`,
  ];
  const call = (file) => `data_url(${JSON.stringify(file.name)}, ${JSON.stringify(file.type)})`;
  for (const { path, body } of requests) {
    const literal = (value, depth) => pythonOf(value, depth).replace(HOLE, (_, place) => call(files[place]));
    if (path === "v1/ocr") {
      lines.push(`answer = client.post("/ocr", cast_to=httpx.Response, body=${literal(body, 0)}).json()`);
      lines.push('for page in answer["pages"]:', '    print(page["markdown"])');
      continue;
    }
    const { mm_processor_kwargs: own, ...known } = body;
    const fields = Object.entries(own ? { ...known, extra_body: { mm_processor_kwargs: own } } : known);
    lines.push("answer = client.chat.completions.create(");
    for (const [name, value] of fields) lines.push(`    ${name}=${literal(value, 1)},`);
    lines.push(")", "print(answer.choices[0].message.content)");
  }
  return lines.join("\n");
}

/** A JSON value as Python has it. */
function pythonOf(value, depth) {
  const inner = "    ".repeat(depth + 1);
  const outer = "    ".repeat(depth);
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const isList = Array.isArray(value);
  const [open, close] = isList ? "[]" : "{}";
  const entries = Object.entries(value).map(([name, each]) =>
    `${inner}${isList ? "" : `${JSON.stringify(name)}: `}${pythonOf(each, depth + 1)},\n`);
  return entries.length ? `${open}\n${entries.join("")}${outer}${close}` : open + close;
}

function javascript(requests, files, base, keyed) {
  const key = keyed ? "  Authorization: `Bearer ${process.env.OPENAI_API_KEY}`,\n" : "";
  const lines = [
    'import { readFile } from "node:fs/promises";',
    "",
    "const dataUrl = async (path, kind) => `data:${kind};base64,${await readFile(path, \"base64\")}`;",
    `const headers = {\n  "Content-Type": "application/json",\n${key}};`,
  ];
  for (const [place, { path, body }] of requests.entries()) {
    const text = JSON.stringify(body, null, 2).replace(HOLE, (_, at) =>
      `await dataUrl(${JSON.stringify(files[at].name)}, ${JSON.stringify(files[at].type)})`);
    const name = place ? `${place + 1}` : "";
    lines.push(`const body${name} = ${text};`);
    lines.push(`const response${name} = await fetch("${base}/${path.slice(3)}", {`);
    lines.push(`  method: "POST", headers, body: JSON.stringify(body${name}),`, "});");
    lines.push(path === "v1/ocr"
      ? `for (const page of (await response${name}.json()).pages) console.log(page.markdown);`
      : `console.log((await response${name}.json()).choices[0].message.content);`);
  }
  return lines.join("\n");
}
