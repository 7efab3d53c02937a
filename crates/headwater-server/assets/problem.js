// Turns an HTTP error into one sentence for people. Look here when an error is shown badly.

/** No problem document is longer; what is longer is somebody else's HTML page. */
const DETAIL_MAX_CHARS = 600;

/**
 * The `detail` of an RFC 9457 problem document, or the best that can be said without one.
 * @param {Response} response
 * @returns {Promise<string>}
 */
export async function explain(response) {
  const status = `HTTP ${response.status} ${response.statusText}`.trim();
  if (!/^application\/(problem\+)?json/i.test(response.headers.get('content-type') ?? '')) return status;
  try {
    const problem = await response.json();
    return String(problem.detail || problem.title || status).slice(0, DETAIL_MAX_CHARS);
  } catch {
    return status;
  }
}
