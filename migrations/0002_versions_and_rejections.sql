-- Only additions: programs of the version before run on these tables.

-- The newest message version that a worker understands, and the one that a partition's messages may have. A partition
-- is raised before the first message of a newer version is published, so that no older worker reads it.
ALTER TABLE workers ADD COLUMN protocol integer NOT NULL DEFAULT 1;
ALTER TABLE partitions ADD COLUMN protocol integer NOT NULL DEFAULT 1;

-- A worker that does not understand a partition's messages never owns it, however old its program: its UPDATE passes
-- over the row. Only changes of the owner are looked at, which the claim path does not make.
CREATE FUNCTION keep_owner_current() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.protocol > coalesce((SELECT protocol FROM workers WHERE id = NEW.owner), 1) THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER keep_owner_current BEFORE UPDATE OF owner ON partitions
    FOR EACH ROW WHEN (NEW.owner IS NOT NULL) EXECUTE FUNCTION keep_owner_current();

-- A single command of a message can be rejected: `place` is its number in the message, 0 stands for the message itself.
ALTER TABLE dead_letters ADD COLUMN place integer NOT NULL DEFAULT 0;
ALTER TABLE dead_letters
    DROP CONSTRAINT dead_letters_message_key,
    ADD CONSTRAINT dead_letters_message_key UNIQUE (partition, generation, sequence, place);

-- Positions count from 1. Rows that break this are older than the rule, and stay.
ALTER TABLE claims ADD CONSTRAINT claims_position_positive CHECK (position > 0) NOT VALID;
