// Lays out JSON for reading. Look here when pretty data differs from what was sent.

/** Longer texts are shown unchanged: laying them out would stall the page. */
const PRETTY_MAX_CHARS = 20_000;

/** Layouts that would be longer are not made: each line is indented by its depth. */
const LAYOUT_MAX_CHARS = 10 * PRETTY_MAX_CHARS;

/**
 * Lays out a JSON object or array. Only the white space between tokens changes: numbers too long
 * for JavaScript, repeated keys and escapes are preserved, unlike with parsing and printing.
 * @param {string} text
 * @returns {string | null} null if it is not an object or array, or too long, or nested too deeply
 */
export function prettyJson(text) {
  if (text.length > PRETTY_MAX_CHARS || !/^\s*[[{]/.test(text)) return null;
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  let out = '';
  let depth = 0;
  const newLine = () => `\n${'  '.repeat(depth)}`;
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[[\]{},:]|[^\s[\]{},:"]+/g) ?? [];
  for (const [index, token] of tokens.entries()) {
    if (out.length > LAYOUT_MAX_CHARS) return null;
    const closesEmpty = /^[\]}]$/.test(token) && /^[[{]$/.test(tokens[index - 1]);
    if (closesEmpty) out += token;
    else if (token === '{' || token === '[') {
      out += token;
      const empty = /^[\]}]$/.test(tokens[index + 1]);
      if (!empty) {
        depth += 1;
        out += newLine();
      }
    } else if (token === '}' || token === ']') {
      depth -= 1;
      out += newLine() + token;
    } else if (token === ',') out += token + newLine();
    else out += token === ':' ? ': ' : token;
  }
  return out;
}
