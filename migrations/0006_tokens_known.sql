-- Proxies do not always say how many tokens a request had: then the token columns are no zeros.

ALTER TABLE requests ADD COLUMN IF NOT EXISTS tokens_known Bool DEFAULT true AFTER dropped_before;
