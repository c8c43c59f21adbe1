-- Launches accepted before pipelines had owners count against their creators' shares, too.
UPDATE kit_pipelines SET owner = launches.owner
FROM launches WHERE launches.id = kit_pipelines.id AND state IN (1, 5, 6);
