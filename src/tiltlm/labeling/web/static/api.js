// Requests to the server. A failed one is a value, not an exception: every caller has to say what happens then.

const TIMEOUT_MS = 20000;

/**
 * Send a request and return {status, data, code, message, retryAfter}.
 * status 0: no answer came (offline, timeout). retryAfter: milliseconds, 0 if the server did not say.
 */
export async function request(method, path, body) {
  const options = { method, headers: { Accept: "application/json" }, signal: AbortSignal.timeout(TIMEOUT_MS) };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
    options.keepalive = options.body.length < 60000; // a vote that is under way survives that the page is closed
  }
  let answer;
  let data = null;
  try {
    answer = await fetch(path, options);
    data = await answer.json();
  } catch {
    // No connection, or an answer that is not JSON, such as the error page of a proxy.
    if (!answer || answer.ok) return { status: 0, data: null, code: "no_answer", message: "", retryAfter: 0 };
  }
  const error = (data && data.error) || {};
  const seconds = Number(answer.headers.get("Retry-After")) || 0;
  return { status: answer.status, data, code: error.code || "", message: error.message || "", retryAfter: seconds * 1000 };
}

/** Return true for an answer after which the same request is worth another try. */
export function isTemporary(answer) {
  return answer.status === 0 || answer.status === 408 || answer.status === 429 || answer.status >= 500;
}
