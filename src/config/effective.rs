//! The config in force, as TOML for the log: defaults filled in, overrides applied, secrets masked.

use super::{Config, Mqtt, TriggerConfig, TriggerOn};
use crate::document::{MASK, Text, path, quoted};

impl Config {
    /// The config in force as the text of a config file. Secrets stand as `***`; everything else can
    /// be loaded again. The pipelines' versions follow as comments.
    pub fn effective(&self) -> String {
        let mut out = Text::default();
        out.pair("pipelines_dir", path(&self.pipelines_dir));
        out.line("[station]");
        out.pair("root", quoted(&self.station.root));
        out.pair("site", quoted(&self.station.site));
        out.pair("area", quoted(&self.station.area));
        out.pair("line", quoted(&self.station.line));
        out.pair("station", quoted(&self.station.station));
        out.line("[model]");
        self.model(&mut out);
        self.cameras(&mut out);
        for part in &self.parts {
            out.line("[[part]]");
            out.pair("name", quoted(&part.name));
            let cameras: Vec<_> = part.cameras.iter().map(|id| quoted(id)).collect();
            out.pair("cameras", format!("[{}]", cameras.join(", ")));
        }
        if let Some(dir) = &self.trigger_dir {
            out.line("[trigger]");
            out.pair("dir", path(dir));
        }
        out.line("[store]");
        out.pair("dir", path(&self.store.dir));
        out.pair("max_bytes", self.store.max_bytes);
        out.pair("retain_days", self.store.retain_days);
        out.pair("clock", quoted(self.store.clock.as_str()));
        out.pair("free_bytes_min", self.store.free_bytes_min);
        self.brokers(&mut out);
        self.page(&mut out);
        self.plcs(&mut out);
        self.opcua(&mut out);
        for (name, recipe) in &self.recipes {
            out.line(&format!("# pipeline {name} version {}", recipe.pipeline.version));
        }
        out.into_string()
    }

    fn model(&self, out: &mut Text) {
        if let Some(remote) = &self.model.remote {
            remote.write(out);
        }
        if !self.model.has_files() {
            return;
        }
        out.pair("text", path(&self.model.text));
        out.pair("mmproj", path(&self.model.mmproj));
        if let Some(adapter) = &self.model.adapter {
            out.pair("adapter", path(adapter));
        }
        for (key, hash) in
            [("text_sha256", &self.model.text_sha256), ("mmproj_sha256", &self.model.mmproj_sha256)]
        {
            if let Some(hash) = hash {
                out.pair(key, quoted(hash));
            }
        }
        out.pair("device", quoted(&self.model.device.name()));
        out.pair("threads", self.model.threads);
        out.pair("memory_mb", self.model.memory_mb);
        out.pair("kv", quoted(self.model.kv.name()));
        out.pair("yarn", self.model.yarn);
        out.pair("unload_after_idle_s", self.model.unload_after_idle.map_or(0, |idle| idle.as_secs()));
    }

    fn cameras(&self, out: &mut Text) {
        for camera in &self.cameras {
            out.line("[[camera]]");
            out.pair("id", quoted(&camera.id));
            camera.source.write(out);
            out.pair("pipeline", quoted(&camera.pipeline));
            if let Some(trigger) = trigger(&camera.trigger) {
                out.pair("trigger", trigger);
            }
            let (policy, frames) = (quoted(camera.queue.policy.as_str()), camera.queue.frames);
            out.pair("queue", format!("{{ policy = {policy}, frames = {frames} }}"));
        }
    }

    fn page(&self, out: &mut Text) {
        let Some(web) = &self.web else { return };
        out.line("[web]");
        out.pair("listen", quoted(&web.listen.to_string()));
        let hosts: Vec<String> = web.hosts.iter().map(|h| quoted(h)).collect();
        out.pair("hosts", format!("[{}]", hosts.join(", ")));
        if let Some(url) = &web.public_url {
            out.pair("public_url", quoted(url));
        }
        if let Some((certificate, key)) = &web.certificate {
            out.pair("certificate", path(certificate));
            out.pair("key", path(key));
        }
        out.pair("session_hours", web.session_hours);
        out.pair("open_metrics", web.open_metrics);
        out.pair("model_api", web.model_api);
        out.pair("model_api_max_pixels", web.model_api_max_pixels);
    }

    fn plcs(&self, out: &mut Text) {
        let Some(modbus) = &self.modbus else { return };
        out.line("[modbus]");
        out.pair("listen", quoted(&modbus.listen.to_string()));
        let allow: Vec<String> = modbus.allow.iter().map(|network| quoted(&network.to_string())).collect();
        out.pair("allow", format!("[{}]", allow.join(", ")));
        out.pair("connections", modbus.connections);
        out.pair("idle_timeout_s", modbus.idle.as_secs());
        out.pair("watchdog_ms", modbus.watchdog.as_millis());
        out.pair("keep_results", modbus.keep_results);
        out.pair("expected", quoted(&modbus.expected));
        let recipes: Vec<String> =
            modbus.recipes.iter().map(|(number, name)| format!("{number} = {}", quoted(name))).collect();
        out.pair("recipes", format!("{{ {} }}", recipes.join(", ")));
        let units: Vec<String> = modbus.units.iter().map(|(unit, id)| format!("{id} = {unit}")).collect();
        out.pair("units", format!("{{ {} }}", units.join(", ")));
    }

    fn opcua(&self, out: &mut Text) {
        let Some(opcua) = &self.opcua else { return };
        out.line("[opcua]");
        out.pair("listen", quoted(&opcua.listen.to_string()));
        if let Some(host) = &opcua.host {
            out.pair("host", quoted(host));
        }
        if let Some(file) = &opcua.users_file {
            out.pair("users_file", path(file));
        }
        if let Some(anonymous) = opcua.anonymous {
            out.pair("anonymous", quoted(anonymous.as_str()));
        }
        for (key, number) in [
            ("connections", opcua.connections),
            ("connections_per_address", opcua.connections_per_address),
            ("sessions", opcua.sessions),
            ("subscriptions", opcua.subscriptions),
            ("monitored_items", opcua.monitored_items),
            ("nodes_per_call", opcua.nodes_per_call),
            ("message_kb", opcua.message_kb),
            ("queue", opcua.queue),
            ("session_timeout_s", opcua.session_timeout_s),
        ] {
            out.pair(key, number);
        }
    }

    fn brokers(&self, out: &mut Text) {
        out.line("[mqtt]");
        out.broker(&self.mqtt);
        out.pair("outbox_entries_max", self.mqtt.outbox_entries_max);
        for sink in &self.sinks {
            out.line(&format!("[sink.{}]", sink.name));
            out.pair("kind", quoted("mqtt"));
            out.pair("enabled", sink.enabled);
            out.pair("commands", sink.commands);
            out.broker(&sink.broker);
        }
    }
}

impl Text {
    fn broker(&mut self, mqtt: &Mqtt) {
        let out = self;
        out.pair("url", quoted(&mqtt.url()));
        out.pair("protocol", mqtt.protocol.level());
        out.pair("client_id", quoted(&mqtt.client_id));
        if mqtt.username.is_some() {
            out.pair("username", quoted(MASK));
        }
        if mqtt.password.is_some() {
            out.pair("password", quoted(MASK));
        }
        if let Some(file) = &mqtt.password_file {
            out.pair("password_file", path(file));
        }
        if let Some(tls) = &mqtt.tls {
            out.pair("ca", path(&tls.ca));
            if let Some((certificate, key)) = &tls.certificate {
                out.pair("certificate", path(certificate));
                out.pair("key", path(key));
            }
        }
        out.pair("keep_alive_s", mqtt.keep_alive_s);
        out.pair("images", mqtt.images_px.is_some());
        if let Some(images_px) = mqtt.images_px {
            out.pair("images_px", images_px);
        }
        if let Some(node) = &mqtt.sparkplug {
            node.write(out);
        }
    }
}

fn trigger(trigger: &TriggerConfig) -> Option<String> {
    let mut pairs = Vec::new();
    if trigger.on == TriggerOn::Command {
        pairs.push("on = \"command\"".to_owned());
    }
    pairs.extend(trigger.interval_ms.map(|ms| format!("interval_ms = {ms}")));
    pairs.extend(trigger.deadline_ms.map(|ms| format!("deadline_ms = {ms}")));
    pairs.extend(trigger.exposed_within_ms.map(|ms| format!("exposed_within_ms = {ms}")));
    (!pairs.is_empty()).then(|| format!("{{ {} }}", pairs.join(", ")))
}
