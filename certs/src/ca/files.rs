//! A new leaf, its key and the trust bundle as the three files a workload reads.

use std::path::Path;

use super::Issued;
use crate::file::{Access, Owner, Prepared};
use crate::{Error, pem};

impl Issued {
    /// Writes `cert.pem`, `key.pem` (0600) and `bundle.pem` into `folder`, which is made where missing, owned by `owner` or else by whom
    /// the replaced files belonged to.
    ///
    /// All three files are complete on disk before the first is put in place, and then follow one another at once: trust
    /// first, then key and certificate, so that a reader meets an old certificate with a new key for a moment at most.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path, bundle: &[u8], owner: Option<Owner>) -> Result<(), Error> {
        std::fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        let files = [
            ("bundle.pem", bundle, Access::Public),
            ("key.pem", self.key_pem.as_bytes(), Access::Secret),
            ("cert.pem", self.chain_pem.as_bytes(), Access::Public),
        ];
        let prepared = files
            .into_iter()
            .filter(|(name, content, access)| {
                *access == Access::Secret || !is_already(&folder.join(name), content, owner)
            })
            .map(|(name, content, access)| Prepared::new(&folder.join(name), content, access, owner))
            .collect::<Result<Vec<_>, _>>()?;
        prepared.into_iter().try_for_each(Prepared::replace)
    }
}

/// An unchanged bundle is left alone, unless it is to change hands.
fn is_already(path: &Path, content: &[u8], owner: Option<Owner>) -> bool {
    owner.is_none() && pem::read(path).is_ok_and(|there| there == content)
}
