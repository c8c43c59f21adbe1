-- An audience of its own for each installation: what is signed for one is worth nothing at another.

CREATE TABLE installation (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    audience text    NOT NULL
);
COMMENT ON TABLE installation IS 'One row: what this installation is called in challenges and tokens.';
INSERT INTO installation (audience) VALUES ('icto-' || gen_random_uuid());

-- Those from before name no origin.
DELETE FROM challenges;
