// The same three requests with axios (npm install axios).
//
//     node with_axios.mjs [URL] [COUPON]

import axios from "axios";
import { randomUUID } from "node:crypto";

const [api = "http://localhost:8080", coupon = "AXIOS"] = process.argv.slice(2);

// axios throws for every status from 300 on, unless told otherwise. A 400, 404 or 409 is an answer here.
const client = axios.create({ baseURL: api, timeout: 30_000, validateStatus: () => true });

// Look at .status first: a 201 has no body to parse (.data is an empty string).
const created = await client.post("/api/coupons", { name: coupon, amount: 1 });
console.log(created.status);

for (const user of ["ada", "grace"]) {
  const claimed = await client.post(
    "/api/coupons/claim",
    { user_id: user, coupon_name: coupon },
    // The same claim may be sent again with the same key, after a 503 or a broken connection.
    { headers: { "Idempotency-Key": randomUUID() } },
  );
  console.log(claimed.status, claimed.data.position ?? claimed.data.code);
}

console.log(JSON.stringify((await client.get(`/api/coupons/${coupon}`)).data));
