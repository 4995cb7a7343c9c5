-- What the gateway of commit 4687e9d, the last without revisions, created on SQLite and PostgreSQL, with one story.
CREATE TABLE datasets (
	id VARCHAR(32) NOT NULL,
	created_at_us BIGINT NOT NULL,
	name TEXT NOT NULL,
	num_files INTEGER NOT NULL,
	size_bytes BIGINT NOT NULL,
	suffixes JSON NOT NULL,
	PRIMARY KEY (id)
);
CREATE INDEX datasets_by_age ON datasets (created_at_us, id);
CREATE TABLE fine_tunes (
	id VARCHAR(32) NOT NULL,
	created_at_us BIGINT NOT NULL,
	finished_at_us BIGINT,
	status VARCHAR(16) NOT NULL,
	executor_id VARCHAR(64) NOT NULL,
	request_id VARCHAR(128) NOT NULL,
	request_digest VARCHAR(64) NOT NULL,
	idempotency_digest VARCHAR(64),
	recipe VARCHAR(64) NOT NULL,
	dataset VARCHAR(32) NOT NULL,
	settings JSON NOT NULL,
	adapter VARCHAR(64),
	measures JSON,
	error JSON,
	PRIMARY KEY (id),
	UNIQUE (idempotency_digest)
);
CREATE INDEX fine_tunes_by_age ON fine_tunes (created_at_us, id);
CREATE INDEX fine_tunes_by_status ON fine_tunes (status, created_at_us, id);
CREATE TABLE narrative_events (
	narrative_id VARCHAR(32) NOT NULL,
	seq INTEGER NOT NULL,
	"key" VARCHAR(200) NOT NULL,
	type VARCHAR(32) NOT NULL,
	data TEXT NOT NULL,
	PRIMARY KEY (narrative_id, seq),
	UNIQUE (narrative_id, "key")
);
CREATE TABLE narratives (
	id VARCHAR(32) NOT NULL,
	created_at_us BIGINT NOT NULL,
	finished_at_us BIGINT,
	status VARCHAR(16) NOT NULL,
	executor_id VARCHAR(64) NOT NULL,
	request_id VARCHAR(128) NOT NULL,
	request_digest VARCHAR(64) NOT NULL,
	idempotency_digest VARCHAR(64),
	filename TEXT NOT NULL,
	media_type VARCHAR(128) NOT NULL,
	audio_bytes BIGINT NOT NULL,
	options JSON NOT NULL,
	error JSON,
	PRIMARY KEY (id),
	UNIQUE (idempotency_digest)
);
CREATE INDEX narratives_by_age ON narratives (created_at_us, id);
CREATE INDEX narratives_by_status ON narratives (status, created_at_us, id);
INSERT INTO narratives VALUES
	('0123456789abcdef0123456789abcdef', 1795000000000000, 1795000007000000, 'succeeded', 'gateway-0', 'r1',
	'aa', 'bb', 'talk.flac', 'audio/flac', 484000, '{"seed": 7}', NULL);
INSERT INTO narrative_events VALUES
	('0123456789abcdef0123456789abcdef', 1, 'status:queued', 'status', '{"status": "queued"}');
INSERT INTO narrative_events VALUES
	('0123456789abcdef0123456789abcdef', 2, 'finished', 'finished', '{"status": "succeeded", "error": null}');
