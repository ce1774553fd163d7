//! Certificates of an authority of the test's own, for real servers.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

/// An authority; its own certificate, and those that it made, are files that servers of any user can read.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate with its key, in PEM, and the files of both.
pub struct Signed {
    pub cert: String,
    pub key: String,
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(directory.path().join("ca.pem"), pem).unwrap();
        Self { issuer: Issuer::new(params, key), directory }
    }

    /// Where a client finds it.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A certificate for this name.
    pub fn sign(&self, name: &str) -> Signed {
        self.sign_params(CertificateParams::new([name.to_owned()]).unwrap())
    }

    /// The same, which ended long ago.
    pub fn sign_expired(&self, name: &str) -> Signed {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
        self.sign_params(params)
    }

    fn sign_params(&self, params: CertificateParams) -> Signed {
        let pair = KeyPair::generate().unwrap();
        let (cert, key) = (params.signed_by(&pair, &self.issuer).unwrap().pem(), pair.serialize_pem());
        let made = fs::read_dir(self.directory.path()).unwrap().count();
        let cert_file = write(&self.directory.path().join(format!("{made}-cert.pem")), &cert);
        let key_file = write(&self.directory.path().join(format!("{made}-key.pem")), &key);
        Signed { cert, key, cert_file, key_file }
    }
}

impl Signed {
    pub fn pair(&self) -> Option<(&str, &str)> {
        Some((&self.cert, &self.key))
    }
}

fn write(path: &Path, text: &str) -> PathBuf {
    fs::write(path, text).unwrap();
    path.to_owned()
}
