"""The same three requests with `requests` (pip install requests).

    python3 with_requests.py [URL] [COUPON]
"""

import sys
import uuid

import requests

API = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8080"
COUPON = sys.argv[2] if len(sys.argv) > 2 else "REQUESTS"

# Look at the status first: a 201 has no body to parse.
created = requests.post(f"{API}/api/coupons", json={"name": COUPON, "amount": 1}, timeout=30)
print(created.status_code)

for user in ["ada", "grace"]:
    claimed = requests.post(
        f"{API}/api/coupons/claim",
        json={"user_id": user, "coupon_name": COUPON},
        # The same claim may be sent again with the same key, after a 503 or a broken connection.
        headers={"Idempotency-Key": str(uuid.uuid4())},
        timeout=30,
    )
    answer = claimed.json()
    print(claimed.status_code, answer.get("position", answer.get("code")))

print(requests.get(f"{API}/api/coupons/{COUPON}", timeout=30).json())
