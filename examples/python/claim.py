"""Creates a coupon and claims it. Needs the standard library only.

    python3 claim.py [URL] [COUPON]
"""

import json
import sys
import time
import uuid
from urllib.error import HTTPError
from urllib.request import Request, urlopen

API = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8080"


def call(method, path, body=None, headers={}):
    """Sends one request; returns status, headers and the parsed body, if there is one."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(API + path, data, {"content-type": "application/json", **headers}, method=method)
    try:
        response = urlopen(request, timeout=30)
    except HTTPError as error:
        response = error
    with response:
        text = response.read()
        return response.status, response.headers, json.loads(text) if text else None


def claim(user_id, coupon_name, patience_s=60):
    """Claims a coupon; returns status and answer once the outcome is known."""
    post = ("POST", "/api/coupons/claim", {"user_id": user_id, "coupon_name": coupon_name},
            {"idempotency-key": str(uuid.uuid4())})
    request, deadline = post, time.monotonic() + patience_s
    while True:
        wait_s = 1.0
        try:
            status, headers, answer = call(*request)
            if status not in (202, 503):
                return status, answer
            # 202: ask for the outcome at the Location. 503: send the same claim again.
            request = ("GET", headers["location"]) if status == 202 else post
            wait_s = float(headers["retry-after"] or wait_s)
        except OSError:
            # The connection broke: the outcome is unknown, and the key makes a repetition safe.
            request = post
        if time.monotonic() > deadline:
            raise TimeoutError("no outcome yet; the same key may be used again")
        time.sleep(wait_s)


if __name__ == "__main__":
    coupon = sys.argv[2] if len(sys.argv) > 2 else "PYTHON"
    print(call("POST", "/api/coupons", {"name": coupon, "amount": 1})[0])
    print(claim("ada", coupon))
    print(claim("grace", coupon))
    print(call("GET", f"/api/coupons/{coupon}")[2])
