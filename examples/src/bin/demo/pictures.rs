//! Upload a picture: thumbnails in several sizes, made by a plain function that may block.

use std::{
    io::{self, Cursor},
    path::Path,
};

use axum::{
    extract::{Multipart, State},
    response::Redirect,
};
use axum_taskflow::{Data, Failure, TaskContext, task};
use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits,
    codecs::jpeg::JpegEncoder, imageops::FilterType,
};
use serde::{Deserialize, Serialize};

use crate::{
    App,
    folders::{Folders, write_whole},
    page::{self, FormName, Problem},
    upload::{self, Incoming},
};

/// The longest side of each thumbnail, in pixels.
pub(crate) const SIZES: [u32; 3] = [96, 240, 480];
/// The largest upload, in bytes.
pub(crate) const PICTURE_BYTES_MAX: usize = 10 * 1024 * 1024;
/// The largest picture, in pixels on a side: a small file can claim to be huge.
const SIDE_MAX: u32 = 12_000;
/// The largest picture, in bytes when unpacked.
const UNPACKED_BYTES_MAX: u64 = 512 * 1024 * 1024;
const JPEG_QUALITY: u8 = 85;

/// One small version of a picture.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Thumbnail {
    /// The name of the file in the folder of thumbnails.
    pub(crate) file: String,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// Makes a thumbnail of each size from an uploaded file.
///
/// A second attempt writes the same files with the same content, so an interrupted one may simply run again.
#[task(retries = 2, delay = "1s", requeue_on_interrupt = true)]
pub(crate) fn make_thumbnails(
    ctx: TaskContext,
    Data(folders): Data<Folders>,
    upload: String,
) -> Result<Vec<Thumbnail>, Failure> {
    ctx.progress(0.0, "reading the picture");
    let picture = read(&folders.uploads.join(upload))?;
    ctx.log(format!("{} x {} pixels", picture.width(), picture.height()));

    let mut made = Vec::new();
    for (n, size) in SIZES.into_iter().enumerate() {
        // Nobody can drop a plain function from outside: it has to look.
        if ctx.is_cancelled() {
            return Err(Failure::retry("stopped between two sizes"));
        }
        // The first quarter was the reading.
        let done = 0.25 + 0.75 * n as f64 / SIZES.len() as f64;
        ctx.progress(done, format!("{size} pixels"));
        let stem = format!("{}-{size}", ctx.id());
        made.push(write_thumbnail(&picture, size, &folders.thumbnails, &stem)?);
    }
    ctx.progress(1.0, "");
    Ok(made)
}

fn read(path: &Path) -> Result<DynamicImage, Failure> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(UNPACKED_BYTES_MAX);
    let mut reader = match ImageReader::open(path) {
        Ok(reader) => reader.with_guessed_format()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::give_up("the uploaded file is gone"));
        }
        Err(error) => return Err(error.into()),
    };
    reader.limits(limits);
    if reader.format().is_none() {
        return Err(Failure::give_up(
            "this file is no picture that we can read: it is neither JPEG, PNG nor WebP",
        ));
    }
    let mut decoder = reader.into_decoder().map_err(judge)?;
    // Phones store how they were held, not the turned picture.
    let orientation = decoder.orientation().map_err(judge)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(judge)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// A broken file stays broken; a disk may recover.
fn judge(error: ImageError) -> Failure {
    match error {
        ImageError::IoError(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            Failure::retry(error)
        }
        error => Failure::give_up(error),
    }
}

fn write_thumbnail(
    picture: &DynamicImage,
    size: u32,
    folder: &Path,
    stem: &str,
) -> Result<Thumbnail, Failure> {
    let small = if picture.width().max(picture.height()) > size {
        picture.resize(size, size, FilterType::Triangle)
    } else {
        // A small picture is not blown up.
        picture.clone()
    };
    let mut bytes = Cursor::new(Vec::new());
    let file = if small.color().has_alpha() {
        small.write_to(&mut bytes, ImageFormat::Png)?;
        format!("{stem}.png")
    } else {
        // JPEG has neither 16 bits nor floats.
        small
            .to_rgb8()
            .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY))?;
        format!("{stem}.jpg")
    };
    write_whole(&folder.join(&file), bytes.get_ref())?;
    Ok(Thumbnail {
        file,
        width: small.width(),
        height: small.height(),
    })
}

/// Takes the form.
pub(crate) async fn submit(
    State(app): State<App>,
    mut form: Multipart,
) -> Result<Redirect, Problem> {
    let problem = |text: String| Problem::unprocessable(FormName::Picture, text);
    let mut incoming = None;
    while let Some(field) = upload::next_field(&mut form, FormName::Picture).await? {
        if field.name() == Some("picture") {
            incoming = upload::receive(
                field,
                &app.folders.uploads,
                PICTURE_BYTES_MAX,
                FormName::Picture,
            )
            .await?;
        }
    }
    let Some(Incoming { stored, shown, .. }) = incoming else {
        return Err(problem("Please choose a file first.".to_owned()));
    };

    let added = app
        .manager
        .add_task(make_thumbnails, stored.clone())
        .tag("picture", shown)
        .await;
    match added {
        Ok(id) => Ok(page::to_task(id, false)),
        Err(error) => {
            upload::forget(&app.folders.uploads, &stored).await;
            Err(Problem::refused(FormName::Picture, &error))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use axum_taskflow::{Meaning, TaskManager, WaitError};
    use image::RgbaImage;

    use super::*;

    /// Runs the task for a file with this content.
    async fn thumbnails(
        content: &[u8],
    ) -> (
        Result<Vec<Thumbnail>, WaitError>,
        Folders,
        tempfile::TempDir,
    ) {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders::below(root.path()).unwrap();
        fs::write(folders.uploads.join("upload"), content).unwrap();
        let manager = TaskManager::builder()
            .collect(false)
            .state(folders.clone())
            .build()
            .await
            .unwrap();

        let id = manager
            .add_task(make_thumbnails, "upload".to_owned())
            .retries(0)
            .await
            .unwrap();
        let made = manager.wait(id).await;

        manager.shutdown().await.unwrap();
        (made, folders, root)
    }

    fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[tokio::test]
    async fn a_wide_picture_keeps_its_shape_in_every_size() {
        let picture = DynamicImage::new_rgb8(1_000, 500);

        let (made, folders, _root) = thumbnails(&encoded(&picture, ImageFormat::Jpeg)).await;

        let made = made.unwrap();
        let sizes: Vec<_> = made
            .iter()
            .map(|thumbnail| (thumbnail.width, thumbnail.height))
            .collect();
        assert_eq!(sizes, [(96, 48), (240, 120), (480, 240)]);
        for thumbnail in made {
            let written = image::open(folders.thumbnails.join(&thumbnail.file)).unwrap();
            assert_eq!(
                (written.width(), written.height()),
                (thumbnail.width, thumbnail.height)
            );
        }
    }

    #[tokio::test]
    async fn a_small_picture_is_not_blown_up() {
        let picture = DynamicImage::new_rgb8(100, 30);

        let (made, ..) = thumbnails(&encoded(&picture, ImageFormat::Png)).await;

        let sizes: Vec<_> = made
            .unwrap()
            .iter()
            .map(|thumbnail| (thumbnail.width, thumbnail.height))
            .collect();
        assert_eq!(sizes, [(96, 29), (100, 30), (100, 30)]);
    }

    #[tokio::test]
    async fn transparency_is_kept() {
        let picture = DynamicImage::from(RgbaImage::new(200, 200));

        let (made, folders, _root) = thumbnails(&encoded(&picture, ImageFormat::WebP)).await;

        let smallest = image::open(folders.thumbnails.join(&made.unwrap()[0].file)).unwrap();
        assert!(smallest.color().has_alpha());
    }

    #[tokio::test]
    async fn a_file_that_is_no_picture_fails_with_a_reason() {
        let (made, ..) = thumbnails(b"%PDF-1.7 or something else").await;

        let Err(WaitError::NotSuccessful(task)) = made else {
            panic!("{made:?}")
        };
        let error = task.life.error.unwrap();
        assert!(
            error.message.contains("neither JPEG, PNG nor WebP"),
            "{error}"
        );
    }

    #[test]
    fn a_picture_that_ends_half_way_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("half");
        let whole = encoded(&DynamicImage::new_rgb8(300, 300), ImageFormat::Png);
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();

        assert_eq!(read(&path).unwrap_err().meaning(), Meaning::GiveUp);
    }

    #[test]
    fn a_small_file_that_claims_to_be_huge_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb");
        let mut png = encoded(&DynamicImage::new_rgb8(8, 8), ImageFormat::Png);
        // The width in the IHDR chunk, and the checksum that goes with it.
        png[16..20].copy_from_slice(&100_000_u32.to_be_bytes());
        let checksum = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&checksum.to_be_bytes());
        fs::write(&path, &png).unwrap();

        let failure = read(&path).unwrap_err();

        assert_eq!(failure.meaning(), Meaning::GiveUp);
        assert!(
            failure.to_string().to_lowercase().contains("limit"),
            "{failure}"
        );
    }

    /// The checksum of PNG chunks, bit by bit.
    fn crc32(bytes: &[u8]) -> u32 {
        let fed = bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))
            })
        });
        !fed
    }
}
