// Turns an HTTP error into one readable sentence. Look here when an error is shown badly.

/** No problem document is longer; a longer body is another server's HTML page. */
const DETAIL_MAX_CHARS = 600;

/**
 * The `detail` of an RFC 9457 problem document, or the best that can be said without one.
 * @param {Response} response
 * @returns {Promise<string>}
 */
export async function explain(response) {
  const status = `HTTP ${response.status} ${response.statusText}`.trim();
  const type = response.headers.get('content-type') ?? '';
  if (!/^application\/(problem\+)?json/i.test(type)) return status;
  try {
    const problem = await response.json();
    return String(problem.detail || problem.title || status).slice(0, DETAIL_MAX_CHARS);
  } catch {
    return status;
  }
}

/** The text with a capital letter and a full stop. @param {string} text */
export function sentence(text) {
  return text && `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`;
}
