BEGIN TRANSACTION;
CREATE TABLE domains (
	domid INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	life TEXT NOT NULL, 
	memory_bytes BIGINT NOT NULL, 
	irq_credential BLOB NOT NULL, 
	unknown_keys TEXT NOT NULL, 
	PRIMARY KEY (domid), 
	UNIQUE (name)
);
INSERT INTO "domains" VALUES(1,'fir','ALIVE',1048576,X'6972710101010101010101010101010101010101010101010101010101010101','["kernel", "maxmem"]');
INSERT INTO "domains" VALUES(2,'sobel','ALIVE',1048576,X'6972710202020202020202020202020202020202020202020202020202020202','[]');
CREATE TABLE events (
	revision INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	description TEXT NOT NULL, 
	time_ns BIGINT NOT NULL
);
INSERT INTO "events" VALUES(2,'coprocs/dsp0','ONLINE','leased to sim',1700000000000000000);
INSERT INTO "events" VALUES(3,'domains/fir','CREATED','domid 1',1700000000000001000);
INSERT INTO "events" VALUES(4,'domains/sobel','CREATED','domid 2',1700000000000002000);
CREATE TABLE meta (
	"key" TEXT NOT NULL, 
	value BIGINT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version',1);
INSERT INTO "meta" VALUES('next_domid',3);
INSERT INTO "meta" VALUES('next_vcoproc_id',4);
CREATE TABLE platforms (
	compatible TEXT NOT NULL, 
	description TEXT NOT NULL, 
	PRIMARY KEY (compatible)
);
INSERT INTO "platforms" VALUES('vcoproc,cortex-m4','{"ranges": [{"name": "ctrl", "size_bytes": 4096, "mapped": false}, {"name": "mbox", "size_bytes": 4096, "mapped": true}], "lines": [{"name": "irq", "level": true}, {"name": "event", "level": false}], "registers": [{"range": "ctrl", "name": "ID", "offset": 0, "width_bytes": 4, "access": "ro", "when_out": "const", "description": "who it is"}], "contexts_max": 64}');
CREATE TABLE requests (
	serial INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	request_id TEXT NOT NULL, 
	fingerprint BLOB NOT NULL, 
	answer BLOB NOT NULL, 
	UNIQUE (request_id)
);
INSERT INTO "requests" VALUES(1,'create-fir',X'7072696E74206F6620666972',X'616E73776572206F6620666972');
INSERT INTO "requests" VALUES(2,'create-sobel',X'7072696E74206F6620736F62656C',X'616E73776572206F6620736F62656C');
CREATE TABLE vcoprocs (
	vcoproc_id BIGINT NOT NULL, 
	domid INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	coproc TEXT NOT NULL, 
	compatible TEXT NOT NULL, 
	life TEXT NOT NULL, 
	trap_credential BLOB NOT NULL, 
	params TEXT NOT NULL, 
	ranges TEXT NOT NULL, 
	lines TEXT NOT NULL, 
	PRIMARY KEY (vcoproc_id), 
	UNIQUE (domid, name), 
	FOREIGN KEY(domid) REFERENCES domains (domid)
);
INSERT INTO "vcoprocs" VALUES(1,1,'audio','dsp0','vcoproc,cortex-m4','ALIVE',X'0101010101010101010101010101010101010101010101010101010101010101','[["weight", 512]]','[{"name": "ctrl", "ipa": 167772160, "size_bytes": 4096, "mapped": false}, {"name": "mbox", "ipa": 167776256, "size_bytes": 4096, "mapped": true}]','[{"index": 0, "name": "irq", "irq": 64, "level": true}, {"index": 1, "name": "event", "irq": 65, "level": false}]');
INSERT INTO "vcoprocs" VALUES(2,1,'video','dsp1','vcoproc,cortex-m4','DESTROYING',X'0202020202020202020202020202020202020202020202020202020202020202','[]','[{"name": "ctrl", "ipa": 167772160, "size_bytes": 4096, "mapped": false}, {"name": "mbox", "ipa": 167776256, "size_bytes": 4096, "mapped": true}]','[{"index": 0, "name": "irq", "irq": 64, "level": true}, {"index": 1, "name": "event", "irq": 65, "level": false}]');
INSERT INTO "vcoprocs" VALUES(3,2,'edges','dsp0','vcoproc,cortex-m4','ALIVE',X'0303030303030303030303030303030303030303030303030303030303030303','[]','[{"name": "ctrl", "ipa": 167772160, "size_bytes": 4096, "mapped": false}, {"name": "mbox", "ipa": 167776256, "size_bytes": 4096, "mapped": true}]','[{"index": 0, "name": "irq", "irq": 64, "level": true}, {"index": 1, "name": "event", "irq": 65, "level": false}]');
CREATE INDEX ix_vcoprocs_coproc ON vcoprocs (coproc);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',4);
INSERT INTO "sqlite_sequence" VALUES('requests',2);
COMMIT;
