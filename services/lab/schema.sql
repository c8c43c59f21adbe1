-- Attempts of calls that carry a key, over all replicas.

CREATE TABLE attempts (
    key   text PRIMARY KEY,
    count int  NOT NULL
);
