-- The demo: three tenants, six people, the password "changeme". Run again it changes nothing.
-- Only with B1_DEMO=1, which a production start refuses.

INSERT INTO organizations (id, name, tier) VALUES
    (1, 'Seaside Pantry', 'pro'),
    (2, 'Corner Pantry', 'free'),
    (3, 'Grand Pantry Group', 'enterprise')
ON CONFLICT (id) DO NOTHING;

-- The ids above did not come from the sequence, so it has to be told; it never moves back.
SELECT setval(
    pg_get_serial_sequence('organizations', 'id'),
    greatest((SELECT max(id) FROM organizations), (SELECT last_value FROM organizations_id_seq))
);

-- argon2id, m=19456, t=2, p=1, of "changeme".
INSERT INTO actors (email, name, password_hash)
SELECT person.email, person.name,
       '$argon2id$v=19$m=19456,t=2,p=1$S5VP8yUGIk9DEokLpmHU3Q$nPVZZ4A4k9n+W+6urdUnAzKiQAGxrksAW/lblEbZwA8'
  FROM (VALUES
           (1, 'user@example.com', 'Usha User'),
           (2, 'manager@example.com', 'Manu Manager'),
           (3, 'admin@example.com', 'Ada Admin'),
           (4, 'owner@example.com', 'Olu Owner'),
           (5, 'free@example.com', 'Fred Free'),
           (6, 'enterprise@example.com', 'Edda Enterprise')
       ) AS person (position, email, name)
 WHERE NOT EXISTS (SELECT FROM actors WHERE actors.email = person.email)
 ORDER BY person.position;

INSERT INTO memberships (actor_id, organization_id, role)
SELECT actors.id, seat.organization_id, seat.role
  FROM (VALUES
           ('user@example.com', 1, 'MEMBER'),
           ('manager@example.com', 1, 'MANAGER'),
           ('admin@example.com', 1, 'ORG_ADMIN'),
           ('owner@example.com', 1, 'ORG_OWNER'),
           ('free@example.com', 2, 'MEMBER'),
           ('enterprise@example.com', 3, 'ORG_OWNER')
       ) AS seat (email, organization_id, role)
  JOIN actors USING (email)
ON CONFLICT (actor_id, organization_id) DO NOTHING;

INSERT INTO properties (organization_id, id, name) VALUES
    (1, 1, 'Seaside House'),
    (2, 1, 'Corner House'),
    (3, 1, 'Grand Hotel')
ON CONFLICT (organization_id, id) DO NOTHING;
