// Requests to the server. Every failure is an ApiError whose message can be shown.

export class ApiError extends Error {
  constructor(message, code = "") {
    super(message);
    this.code = code;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is it still running?", "offline");
  }
  if (response.ok) return response;
  const refusal = await response.json().catch(() => ({}));
  throw new ApiError(refusal.error || `The server answered ${response.status}.`, refusal.code);
}

function post(path, query, signal) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", headers, body: JSON.stringify(query), signal });
}

export async function getInfo() {
  return (await request("api/info")).json();
}

export async function getExample(number) {
  return (await request(`api/examples/${number}`)).blob();
}

// -> {key, width, height, grid: [rows, columns], hidden: [[row, column], ...]}
export async function openImage(blob, maskRatio, signal) {
  const headers = { "Content-Type": "application/octet-stream" };
  const path = `api/images?mask_ratio=${maskRatio}`;
  return (await request(path, { method: "POST", headers, body: blob, signal })).json();
}

// -> {width, height, doubts, planes}: a text and a Uint8Array a region, probability * 256
export async function predict(key, query, signal) {
  const bytes = new Uint8Array(await (await post(`api/images/${key}/predict`, query, signal)).arrayBuffer());
  const end = bytes.indexOf(10);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  const size = head.width * head.height;
  const planes = head.doubts.map((_, k) => bytes.subarray(end + 1 + k * size, end + 1 + (k + 1) * size));
  return { ...head, planes };
}

// kind: mask.png, labels.png or regions.json
export async function getFile(key, kind, query) {
  return (await post(`api/images/${key}/${kind}`, query)).blob();
}
