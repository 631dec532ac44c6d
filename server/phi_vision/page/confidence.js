// How sure the model was of each word, by the rules of `documents/confidence.py`.

/** Places tokens in a text that grows: each is looked for where the last one ended, spaces and unfound ones skipped. */
export class Tokens {
  constructor() {
    this.placed = []; // {start, end, logprob}, in the order of the text
    this.position = 0;
    this.skipped = 0;
  }

  /** Take the chat API's `logprobs.content` of what has just been added to `text`. */
  add(text, content) {
    for (const { token, logprob } of content ?? []) {
      const spaces = text.slice(this.position).search(/\S|$/);
      const start = text.indexOf(token, this.position);
      if (start < 0 || start > this.position + spaces + this.skipped) {
        this.skipped += token.length;
        continue;
      }
      const end = start + token.length;
      this.placed.push({ start, end, logprob });
      this.position = end;
      this.skipped = 0;
    }
  }
}

/** The words of a text: `{start, end, share}`, `share` (0 to 1) being null where no token is known. */
export function wordsOf(text, tokens, from = 0) {
  const found = [];
  let first = 0;
  const pattern = /\S+/g;
  pattern.lastIndex = from;
  for (let word; (word = pattern.exec(text));) {
    const [start, end] = [word.index, pattern.lastIndex];
    while (tokens[first]?.end <= start) first++;
    let [sum, count] = [0, 0];
    for (let at = first; tokens[at]?.start < end; at++) {
      if (tokens[at].end === tokens[at].start) continue;
      sum += tokens[at].logprob;
      count++;
    }
    found.push({ start, end, share: count ? Math.exp(sum / count) : null });
  }
  return found;
}
