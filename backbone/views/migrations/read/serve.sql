-- What readers see is {schema} from now on. The columns are those that readers of every release know.
CREATE OR REPLACE VIEW read.recordings AS SELECT * FROM {schema}.recordings;
CREATE OR REPLACE VIEW read.transcripts AS SELECT * FROM {schema}.transcripts;
CREATE OR REPLACE VIEW read.segments AS SELECT * FROM {schema}.segments;
CREATE OR REPLACE VIEW read.usage_hourly AS SELECT * FROM {schema}.usage_hourly;
CREATE OR REPLACE FUNCTION read.config(language text) RETURNS regconfig
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN {schema}.config(language);
