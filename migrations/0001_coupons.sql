-- Postgres is the only truth: what these tables say is what happened.
--
-- Column names match the API's fields and everything else has a default, so that rows written by
-- hand (`INSERT INTO coupons (name, amount, remaining_amount) …`, `INSERT INTO claims (user_id,
-- coupon_name) …`) are as good as any. Text is compared by bytes (COLLATE "C"): faster, and the
-- same on every machine.

CREATE TABLE coupons (
    name             text        COLLATE "C" NOT NULL,
    amount           integer     NOT NULL,
    remaining_amount integer     NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT coupons_pkey PRIMARY KEY (name),
    CONSTRAINT coupons_amount_positive CHECK (amount > 0),
    CONSTRAINT coupons_stock CHECK (remaining_amount BETWEEN 0 AND amount)
) WITH (fillfactor = 50); -- the stock changes with every batch: room for it on the same page

-- No foreign key to coupons: its check would cost one look-up per claim, and the claim path locks
-- the coupon before it writes here. `position` is the claim's number in its coupon (1 = first).
CREATE TABLE claims (
    coupon_name text        COLLATE "C" NOT NULL,
    user_id     text        COLLATE "C" NOT NULL,
    claim_id    uuid        NOT NULL DEFAULT gen_random_uuid(),
    position    bigint      NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT claims_pkey PRIMARY KEY (coupon_name, user_id),
    CONSTRAINT claims_position_key UNIQUE (coupon_name, position)
);

-- A claim inserted by hand takes the next position of its coupon. The worker always brings its own,
-- so that the condition, not the function, is all that the claim path pays.
CREATE FUNCTION number_claim() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM coupons WHERE name = NEW.coupon_name FOR UPDATE;
    SELECT coalesce(max(position), 0) + 1 INTO NEW.position FROM claims WHERE coupon_name = NEW.coupon_name;
    RETURN NEW;
END $$;

CREATE TRIGGER number_claim BEFORE INSERT ON claims
    FOR EACH ROW WHEN (NEW.position IS NULL) EXECUTE FUNCTION number_claim();

-- One row per partition, written at the first start ever: their number is the system's N.
CREATE TABLE partitions (
    id                integer     NOT NULL,
    -- who may apply this partition's claims, under which epoch, until when (by this database's clock)
    owner             uuid,
    epoch             bigint      NOT NULL DEFAULT 0,
    lease_until       timestamptz NOT NULL DEFAULT '-infinity',
    -- the cursor: all messages up to last_seq of this generation of the stream have been applied
    generation        bigint      NOT NULL DEFAULT 0,
    stream_created_ns bigint,
    last_seq          bigint      NOT NULL DEFAULT 0,
    last_batch_id     uuid,
    -- when NATS stored that message, in ns since 1970: nothing up to then is applied once more
    last_time_ns      bigint,
    CONSTRAINT partitions_pkey PRIMARY KEY (id),
    CONSTRAINT partitions_cursor CHECK (last_seq >= 0)
) WITH (fillfactor = 10); -- changes with every batch: room for it on the same page

CREATE TABLE workers (
    id          uuid        NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    alive_until timestamptz NOT NULL,
    CONSTRAINT workers_pkey PRIMARY KEY (id)
);

-- Messages that could not be understood, kept as they came.
CREATE TABLE dead_letters (
    id         bigint      GENERATED ALWAYS AS IDENTITY,
    partition  integer     NOT NULL,
    generation bigint      NOT NULL,
    sequence   bigint      NOT NULL,
    reason     text        NOT NULL,
    payload    bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT dead_letters_pkey PRIMARY KEY (id),
    CONSTRAINT dead_letters_message_key UNIQUE (partition, generation, sequence)
);
