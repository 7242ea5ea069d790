// Creates a coupon and claims it. Needs fetch and nothing else: Node.js 18 or newer, or a browser.
//
//     node claim.mjs [URL] [COUPON]

const [api = "http://localhost:8080", coupon = "JAVASCRIPT"] = globalThis.process?.argv.slice(2) ?? [];

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Node.js 18, and pages without TLS, have no crypto.randomUUID.
const newKey = () => globalThis.crypto?.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;

/** Claims a coupon; returns status and answer once the outcome is known. */
export async function claim(userId, couponName, patienceMs = 60_000) {
  const post = {
    url: `${api}/api/coupons/claim`,
    method: "POST",
    headers: { "content-type": "application/json", "idempotency-key": newKey() },
    body: JSON.stringify({ user_id: userId, coupon_name: couponName }),
  };
  const deadline = Date.now() + patienceMs;
  for (let request = post; ; ) {
    let waitMs = 1000;
    try {
      const { url, ...options } = request;
      const response = await fetch(url, options);
      const body = await response.json();
      if (response.status !== 202 && response.status !== 503) {
        return { http: response.status, ...body };
      }
      // 202: ask for the outcome at the Location. 503: send the same claim again.
      request = response.status === 202 ? { url: api + response.headers.get("location") } : post;
      waitMs = 1000 * Number(response.headers.get("retry-after") ?? 1);
    } catch {
      // The connection broke: the outcome is unknown, and the key makes a repetition safe.
      request = post;
    }
    if (Date.now() > deadline) throw new Error("no outcome yet; the same key may be used again");
    await sleep(waitMs);
  }
}

// Look at the status first: a 201 has no body to parse.
const created = await fetch(`${api}/api/coupons`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ name: coupon, amount: 1 }),
});
console.log(created.status);
console.log(await claim("ada", coupon));
const { http, code } = await claim("grace", coupon);
console.log(http, code);
console.log(await (await fetch(`${api}/api/coupons/${coupon}`)).json());
