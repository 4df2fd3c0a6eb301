// Requests to the server, and the three ways in which they fail.

const PATIENCE = 15_000; // milliseconds until a request counts as lost

/** The server did not answer, or is in trouble: worth another try. */
export class Unreachable extends Error {}

/** Nobody is signed in any more. */
export class SignedOut extends Error {}

/** The server understood and said no; its message is a sentence. */
export class Refused extends Error {}

export class Api {
  constructor(csrfToken) {
    this.csrfToken = csrfToken;
  }

  next = () => this.post("/api/next", {});
  judge = (judgement) => this.post("/api/judgements", judgement);
  segment = (id, place) => this.post(`/api/items/${id}/segment`, place);
  undo = (undoKey) => this.post("/api/undo", { undo_key: undoKey });
  item = async (id) => (await this.get(`/api/items/${id}`)).json();
  pixels = async (id) => (await this.get(`/api/items/${id}/pixels`)).arrayBuffer();
  signOut = () => this.request("/sign-out", { method: "POST", headers: { "X-CSRF-Token": this.csrfToken } });

  get(path) {
    return this.request(path, {});
  }

  async post(path, content) {
    const headers = { "Content-Type": "application/json", "X-CSRF-Token": this.csrfToken };
    const response = await this.request(path, { method: "POST", headers, body: JSON.stringify(content) });
    return response.json();
  }

  async request(path, options) {
    let response;
    try {
      response = await fetch(path, { ...options, signal: timeout(PATIENCE), cache: "no-store", redirect: "error" });
    } catch (error) {
      throw new Unreachable("The server does not answer.", { cause: error });
    }
    if (response.ok) return response;
    const message = await sentence(response);
    if (response.status === 401) throw new SignedOut(message);
    if (response.status >= 500 || response.status === 429) throw new Unreachable(message);
    throw new Refused(message);
  }
}

/** A random UUID; crypto.randomUUID is missing where a page comes by http from another machine. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function timeout(milliseconds) {
  const controller = new AbortController();
  setTimeout(() => controller.abort(), milliseconds);
  return controller.signal;
}

async function sentence(response) {
  try {
    return (await response.json()).message ?? response.statusText;
  } catch {
    return response.statusText;
  }
}
